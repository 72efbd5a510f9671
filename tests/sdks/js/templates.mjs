// Templates, as the client's users build them. One image, and as much of it as can be seen.
import assert from 'node:assert/strict'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'

const require = createRequire(process.env.PACKAGES + '/')
const { Sandbox, Template, waitForFile } = require('e2b')
const stamp = String(process.hrtime.bigint())

test('a template is built, named, tagged, and started from', async () => {
  const context = mkdtempSync(join(tmpdir(), 'tmplb-js-'))
  writeFileSync(join(context, 'page.html'), stamp)
  const template = Template({ fileContextPath: context })
    .fromNodeImage('lts')
    .setEnvs({ GREETING: 'hello' })
    .runCmd(['echo to-stdout', `echo ${stamp} > made`])
    .copy('page.html', '/srv/page.html', { mode: 0o600 })
    .setStartCmd('touch /tmp/up && exec sleep 1000', waitForFile('/tmp/up'))
  const said = []
  const info = await Template.build(template, 'tmplb-js:v1', { cpuCount: 1, onBuildLogs: (entry) => said.push(entry) })
  assert.ok(info.templateId && info.buildId)
  assert.ok(said.some((entry) => entry.message === 'to-stdout' && entry.level === 'info'))
  assert.ok(await Template.exists('tmplb-js') && await Template.aliasExists('tmplb-js'))
  assert.deepEqual((await Template.getTags('tmplb-js')).map((each) => each.tag), ['v1'])
  assert.equal((await Template.assignTags('tmplb-js:v1', ['stable'])).buildId, info.buildId)
  const sandbox = await Sandbox.create('tmplb-js:stable', { timeoutMs: 60_000 })
  const look = await sandbox.commands.run('cat made /srv/page.html; echo; echo $GREETING; pgrep -c sleep')
  assert.equal(look.stdout, `${stamp}\n${stamp}\nhello\n1\n`)
  await sandbox.kill()
  await Template.removeTags('tmplb-js', ['stable'])
  await assert.rejects(Sandbox.create('tmplb-js:stable'), /not found/)
})

test('a build in the background that fails says why', async () => {
  const template = Template().fromBaseImage().runCmd('echo it is so >&2; exit 7')
  const started = await Template.buildInBackground(template, 'tmplb-js-failing')
  let status
  do status = await Template.getBuildStatus(started)
  while (['building', 'waiting'].includes(status.status))
  assert.equal(status.status, 'error')
  assert.match(status.reason.message, /step 1, RUN echo it is so.*exit code 7: it is so/)
  assert.equal(status.reason.step, '1')
  assert.equal(await Template.exists('tmplb-js-failing'), false)
  await assert.rejects(Template.build(template, 'tmplb-js-failing'), /exit code 7/)
})

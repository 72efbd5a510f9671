// Runs where E2B's client for JavaScript is, and no Hutch. E2B_* leads to a Hutch; PACKAGES to the client.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { after, before, test } from 'node:test'

const require = createRequire(process.env.PACKAGES + '/')
const { CommandExitError, NotFoundError, Sandbox, Secret, TimeoutError, Volume } = require('e2b')

let sandbox
before(async () => {
  sandbox = await Sandbox.create({ timeoutMs: 600_000, metadata: { of: 'js' }, envs: { GREETING: 'hello' } })
})
after(() => sandbox?.kill())

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
async function eventually(condition, ms = 15_000) {
  const end = Date.now() + ms
  while (!(await condition())) {
    assert.ok(Date.now() < end, 'it has not come true in time')
    await sleep(100)
  }
}

test('info and lists', async () => {
  const info = await sandbox.getInfo()
  assert.equal(info.state, 'running')
  assert.deepEqual(info.metadata, { of: 'js' })
  const listed = await Sandbox.list({ query: { metadata: { of: 'js' } } }).nextItems()
  assert.deepEqual(listed.map((one) => one.sandboxId), [sandbox.sandboxId])
  assert.equal((await sandbox.getMetrics()).length, 1)
})

test('commands', async () => {
  assert.equal((await sandbox.commands.run('echo $GREETING')).stdout, 'hello\n')
  await assert.rejects(sandbox.commands.run('exit 3'), (error) => error instanceof CommandExitError && error.exitCode === 3)
  await assert.rejects(sandbox.commands.run('sleep 30', { timeoutMs: 1000 }), TimeoutError)
  const command = await sandbox.commands.run('cat', { background: true, stdin: true })
  await sandbox.commands.sendStdin(command.pid, 'one')
  await sandbox.commands.closeStdin(command.pid)
  assert.equal((await command.wait()).stdout, 'one')
  const killed = await sandbox.commands.run('sleep 60', { background: true })
  assert.ok((await sandbox.commands.list()).some((one) => one.pid === killed.pid))
  assert.equal(await killed.kill(), true)
  await assert.rejects(killed.wait(), CommandExitError)
  await assert.rejects(sandbox.commands.connect(4_000_000))
})

test('a terminal', async () => {
  const decoder = new TextDecoder()
  let seen = ''
  const terminal = await sandbox.pty.create({ cols: 80, rows: 24, onData: (data) => { seen += decoder.decode(data) } })
  await sandbox.pty.resize(terminal.pid, { cols: 100, rows: 40 })
  await sandbox.pty.sendInput(terminal.pid, new TextEncoder().encode('stty size; exit\n'))
  await terminal.wait()
  assert.match(seen, /40 100/)
})

test('files', async () => {
  await sandbox.files.write('js/a.txt', 'text')
  assert.equal(await sandbox.files.read('js/a.txt'), 'text')
  await sandbox.files.write('js/empty', '')
  assert.equal(await sandbox.files.read('js/empty'), '')
  const bytes = new Uint8Array(3_000_000).fill(7)
  await sandbox.files.write('js/bytes', bytes.buffer)
  assert.deepEqual(await sandbox.files.read('js/bytes', { format: 'bytes' }), bytes)
  await sandbox.files.write([{ path: 'js/1', data: '1' }, { path: 'js/2', data: '2' }])
  assert.deepEqual((await sandbox.files.list('js')).map((one) => one.name), ['1', '2', 'a.txt', 'bytes', 'empty'])
  assert.equal(await sandbox.files.makeDir('js/dir'), true)
  assert.equal(await sandbox.files.makeDir('js/dir'), false)
  await sandbox.files.rename('js/1', 'js/dir/one')
  assert.equal(await sandbox.files.exists('js/1'), false)
  await sandbox.files.remove('js/dir')
  await assert.rejects(sandbox.files.read('js/dir/one'), NotFoundError)
  const url = await sandbox.downloadUrl('js/a.txt', { useSignatureExpiration: 60 })
  assert.equal(await (await fetch(url)).text(), 'text')
})

test('watching', async () => {
  const seen = []
  await sandbox.files.makeDir('watched')
  const watch = await sandbox.files.watchDir('watched', (event) => { seen.push(event) })
  await sandbox.files.write('watched/new', '1')
  await eventually(() => seen.some((event) => event.name === 'new' && event.type === 'write'))
  await watch.stop()
})

test('pause, resume, fork, snapshot, kill', async () => {
  const made = await Sandbox.create({ timeoutMs: 120_000 })
  await made.files.write('state', '1')
  assert.equal(await made.pause(), true)
  assert.equal(await made.isRunning(), false)
  const again = await Sandbox.connect(made.sandboxId)
  assert.equal(await again.files.read('state'), '1')
  const { snapshotId } = await again.createSnapshot()
  const copy = await Sandbox.create(snapshotId, { timeoutMs: 120_000 })
  assert.equal(await copy.files.read('state'), '1')
  await copy.kill()
  const waiting = await again.commands.run('sleep 60', { background: true })
  assert.equal(await again.kill(), true)
  await assert.rejects(waiting.wait())
  assert.equal(await again.kill(), false)
  await assert.rejects(again.getInfo())
})

test('volumes', async () => {
  const volume = await Volume.create('js')
  try {
    await volume.writeFile('/in.txt', 'from outside')
    await volume.makeDir('/dir')
    const made = await Sandbox.create({ timeoutMs: 120_000, volumeMounts: { '/data': volume } })
    assert.equal(await made.files.read('/data/in.txt'), 'from outside')
    await made.commands.run('echo inside > /data/dir/out.txt')
    assert.equal(await volume.readFile('/dir/out.txt'), 'inside\n')
    assert.deepEqual((await volume.list('/')).map((entry) => entry.path), ['/dir', '/in.txt'])
    await made.kill()
  } finally {
    assert.equal(await Volume.destroy(volume.volumeId), true)
  }
})

test('secrets, and rules that refer to them', async () => {
  const made = await Secret.create('js-key', 'a-value-that-no-call-tells', { metadata: { of: 'js' } })
  assert.equal(made.version, 1)
  assert.equal((await Secret.update('js-key', 'another-value-of-it')).version, 2)
  assert.ok((await Secret.list().nextItems()).some((one) => one.secretId === made.secretId))
  const rules = { 'api.example.org': [{ transform: { headers: { Authorization: `Bearer ${Secret.fill('js-key')}` } } }] }
  await sandbox.updateNetwork({ allowOut: ({ rules }) => [...rules.keys()], denyOut: ['0.0.0.0/0'], rules })
  const { network } = await sandbox.getInfo()
  assert.deepEqual(network.rules, rules)
  assert.deepEqual(network.allowOut, ['api.example.org'])
  assert.match((await sandbox.commands.run('cat /run/hutch/trust/authority.pem')).stdout, /BEGIN CERTIFICATE/)
  assert.equal(await Secret.destroy('js-key'), true)
  assert.equal(await Secret.destroy('js-key'), false)
  assert.equal(await Secret.exists('js-key'), false)
})

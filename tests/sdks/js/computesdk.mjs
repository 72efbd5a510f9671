// A package of other people's that drives E2B: ComputeSDK's provider, as its users write it.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { test } from 'node:test'

const require = createRequire(process.env.PACKAGES + '/')
const { e2b } = require('@computesdk/e2b')

test('the whole life of a sandbox', async () => {
  const compute = e2b({ apiKey: process.env.E2B_API_KEY })
  const sandbox = await compute.sandbox.create({ envs: { GREETING: 'hello' }, metadata: { of: 'computesdk' } })
  try {
    const said = await sandbox.runCommand('echo $GREETING; echo oops >&2; exit 3')
    assert.deepEqual([said.stdout, said.stderr, said.exitCode], ['hello\n', 'oops\n', 3])
    const here = await sandbox.runCommand('printenv A PWD', { cwd: '/tmp', env: { A: 'b' } })
    assert.equal(here.stdout, 'b\n/tmp\n')

    await sandbox.filesystem.mkdir('/home/user/dir')
    await sandbox.filesystem.writeFile('/home/user/dir/a.txt', 'text')
    assert.equal(await sandbox.filesystem.readFile('/home/user/dir/a.txt'), 'text')
    assert.deepEqual((await sandbox.filesystem.readdir('/home/user/dir')).map((entry) => entry.name), ['a.txt'])
    assert.equal(await sandbox.filesystem.exists('/home/user/dir/b.txt'), false)

    assert.ok((await compute.sandbox.list()).length > 0)
    const again = await compute.sandbox.getById(sandbox.sandboxId)
    assert.equal((await again.runCommand('cat dir/a.txt')).stdout, 'text')

    const snapshot = await compute.snapshot.create(sandbox.sandboxId, { name: 'computesdk' })
    const other = await compute.sandbox.create({ snapshotId: snapshot.id })
    await sandbox.filesystem.remove('/home/user/dir')
    assert.equal(await other.filesystem.readFile('/home/user/dir/a.txt'), 'text')
    await other.destroy()
  } finally {
    await sandbox.destroy()
  }
  assert.equal(await compute.sandbox.getById(sandbox.sandboxId), null)
})

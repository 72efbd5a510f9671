// `E2B_DOMAIN`, a key and an authority are all that is set: API and sandboxes are found by their names, over TLS.

import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import test from 'node:test'

const { Sandbox } = createRequire(`${process.env.PACKAGES}/`)('e2b')

test('a sandbox by its name', async () => {
  const sandbox = await Sandbox.create({ timeoutMs: 120_000 })
  try {
    assert.equal((await sandbox.commands.run('echo hello')).stdout, 'hello\n')
    await sandbox.files.write('page', 'found')
    assert.equal(await sandbox.files.read('page'), 'found')
    assert.equal(await (await fetch(await sandbox.downloadUrl('page'))).text(), 'found')
    await sandbox.commands.run('exec python3 -m http.server 8000', { background: true, timeoutMs: 0 })
    await sandbox.commands.run('for i in $(seq 50); do curl -sf localhost:8000/page && break; sleep 0.2; done')
    assert.equal(await (await fetch(`https://${sandbox.getHost(8000)}/page`)).text(), 'found')
  } finally {
    assert.equal(await sandbox.kill(), true)
  }
})

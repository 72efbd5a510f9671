// Runs where E2B's code interpreter client for JavaScript is, and no Hutch. E2B_* leads to a Hutch.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { after, before, test } from 'node:test'

const require = createRequire(process.env.PACKAGES + '/')
const { Sandbox, TimeoutError } = require('@e2b/code-interpreter')

let sandbox
before(async () => {
  sandbox = await Sandbox.create({ timeoutMs: 600_000, envs: { GREETING: 'hello' } })
})
after(() => sandbox?.kill())

test('values, output, errors', async () => {
  await sandbox.runCode('x = 20')
  const lines = []
  const ran = await sandbox.runCode("import os; print(os.environ['GREETING'])\nx + 1", { onStdout: (out) => lines.push(out.line) })
  assert.deepEqual([ran.text, ran.logs.stdout, lines], ['21', ['hello\n'], ['hello\n']])
  const { error } = await sandbox.runCode('1 / 0')
  assert.equal(error.name, 'ZeroDivisionError')
  assert.match(error.traceback, /1 \/ 0/)
  assert.equal((await sandbox.runCode('os.environ["MORE"]', { envs: { MORE: '1' } })).text, '1')
})

test('charts and tables', async () => {
  const plot = await sandbox.runCode('import matplotlib.pyplot as plt\nplt.plot([1, 2], [3, 4]); plt.title("T")\nplt.show()')
  assert.equal(plot.results[0].chart.type, 'line')
  assert.deepEqual(plot.results[0].chart.elements[0].points, [[1, 3], [2, 4]])
  assert.ok(plot.results[0].png)
  const table = await sandbox.runCode("import pandas as pd\npd.DataFrame({'a': [1, 2]})")
  assert.deepEqual(table.results[0].data, { a: [1, 2] })
})

test('contexts', async () => {
  const context = await sandbox.createCodeContext({ cwd: '/tmp', language: 'javascript' })
  assert.equal((await sandbox.runCode('process.cwd()', { context })).text, '/tmp')
  await sandbox.restartCodeContext(context)
  assert.ok((await sandbox.listCodeContexts()).some(({ id }) => id === context.id))
  await sandbox.removeCodeContext(context)
  await assert.rejects(sandbox.runCode('1', { context }), /not found/i)
})

test('a time-out', async () => {
  await assert.rejects(sandbox.runCode('import time; kept = 1; time.sleep(60)', { timeoutMs: 2000 }), TimeoutError)
  assert.equal((await sandbox.runCode('kept')).text, '1')
})

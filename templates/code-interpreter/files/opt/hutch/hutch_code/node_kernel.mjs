// Runs JavaScript and TypeScript in one place that keeps its variables. See node.py; the argument is the number of the socket.
//
// The engine's own REPL mode does the work: `const` may be declared anew, and `await` works everywhere.
import { Session } from 'node:inspector'
import module, { createRequire } from 'node:module'
import net from 'node:net'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import util from 'node:util'
import vm from 'node:vm'

import { translate } from './node_imports.mjs'

const line = new net.Socket({ fd: Number(process.argv[2]) })
process.argv.length = 1
const tell = (event) => line.write(JSON.stringify(event) + '\n')
const session = new Session()
session.connect()

const home = path.join(process.cwd(), 'cell.js')
globalThis.require = createRequire(home)
globalThis.module = { exports: {} }
globalThis.exports = globalThis.module.exports
const IMPORT = '__hutch_import__'
const TAKE = '__hutch_take__'
hide(IMPORT, (name, options) => import(resolved(String(name)), options))
hide('display', (value) => show(value, false))
hide('$$', Object.fromEntries(
  [['text', 'text/plain'], ['html', 'text/html'], ['svg', 'image/svg+xml'], ['png', 'image/png'], ['jpeg', 'image/jpeg']]
    .map(([name, mime]) => [name, (data) => showAll({ [mime]: data }, false)])
    .concat([['mime', (bundle) => showAll(bundle, false)]])))

const NAMES = {
  'text/plain': 'text', 'text/html': 'html', 'text/markdown': 'markdown', 'image/svg+xml': 'svg', 'image/png': 'png',
  'image/jpeg': 'jpeg', 'application/pdf': 'pdf', 'text/latex': 'latex', 'application/json': 'json',
  'application/javascript': 'javascript', 'e2b/data': 'data', 'e2b/chart': 'chart',
}
const DISPLAY = Symbol.for('Jupyter.display')

let count = 0
let sandbox = {}
let interrupt = () => {}
process.on('SIGINT', () => interrupt())
for (const event of ['uncaughtException', 'unhandledRejection'])
  process.on(event, (error) => process.stderr.write(`${util.inspect(error)}\n`))

let rest = ''
line.setEncoding('utf8')
line.on('data', (data) => {
  const lines = (rest + data).split('\n')
  rest = lines.pop()
  for (const each of lines) run(JSON.parse(each)).finally(() => tell({ type: 'end' }))
})
line.on('close', () => process.exit())
tell({ type: 'end' })

async function run({ code, language, env, sandbox: own }) {
  for (const name of Object.keys(sandbox)) if (!(name in own)) delete process.env[name]
  Object.assign(process.env, (sandbox = own))
  const before = Object.keys(env).map((name) => [name, process.env[name]])
  Object.assign(process.env, env)
  tell({ type: 'number_of_executions', execution_count: ++count })
  try {
    if (language === 'typescript') code = quietly(() => module.stripTypeScriptTypes(code, { mode: 'transform' }))
    const value = await evaluated(translate(code, IMPORT))
    if (value !== undefined) await show(value, true)
  } catch (error) {
    tell(told(error))
  } finally {
    for (const [name, value] of before) value === undefined ? delete process.env[name] : (process.env[name] = value)
  }
}

// The value of the last expression. A signal ends code that computes through the engine, and code that waits here.
async function evaluated(code) {
  const interrupted = new Promise((_, reject) => { interrupt = () => reject(new Interrupted()) })
  try {
    const found = await Promise.race([interrupted, new Promise((resolve, reject) => {
      hide('__hutch_go__', () => session.post('Runtime.evaluate', {
        expression: `${code}\n//# sourceURL=cell-${count}.js`, replMode: true, awaitPromise: true,
      }, (error, answer) => (error ? reject(/terminated/.test(error.message) ? new Interrupted() : error) : resolve(answer))))
      try {
        new vm.Script('__hutch_go__()').runInThisContext({ breakOnSigint: true })
      } catch (error) {
        reject(error.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED' ? new Interrupted() : error)
      }
    })])
    const value = taken(found.result)
    if (found.exceptionDetails) throw new Thrown(value, found)
    return await Promise.race([interrupted, value])
  } finally {
    interrupt = () => {}
  }
}

// The engine gives a handle: the value itself is had by calling a function on it.
function taken({ objectId, value, unserializableValue, type }) {
  if (unserializableValue !== undefined) return vm.runInThisContext(unserializableValue)
  if (objectId === undefined) return value
  let found
  hide(TAKE, (it) => { found = it })
  session.post('Runtime.callFunctionOn', { objectId, functionDeclaration: `function () { ${TAKE}(${type === 'symbol' ? 'this.valueOf()' : 'this'}) }` })
  session.post('Runtime.releaseObject', { objectId })
  return found
}

class Interrupted extends Error {}

class Thrown {
  constructor(value, found) {
    this.value = value
    this.description = found.exceptionDetails.exception?.description ?? found.exceptionDetails.text
  }
}

function told(error) {
  if (error instanceof Interrupted) return { type: 'error', name: 'Interrupted', value: 'the code was interrupted', traceback: '' }
  const value = error instanceof Thrown ? error.value : error
  if (!(value instanceof Error) && !util.types.isNativeError(value))
    return { type: 'error', name: 'Error', value: util.inspect(value), traceback: '' }
  const stack = String(value.stack ?? error.description).split('\n')
  const inside = stack.findIndex((each) => /node:inspector|node_kernel\.mjs/.test(each))
  return { type: 'error', name: value.name, value: value.message, traceback: stack.slice(0, inside < 0 ? undefined : inside).join('\n') }
}

async function show(value, main) {
  const bundle = typeof value?.[DISPLAY] === 'function' ? await value[DISPLAY]() : {}
  for (const [method, mime] of [['_toHtml', 'text/html'], ['_toSvg', 'image/svg+xml'], ['_toPng', 'image/png'], ['_toJpeg', 'image/jpeg']])
    if (typeof value?.[method] === 'function') bundle[mime] = await value[method]()
  showAll({ 'text/plain': typeof value === 'string' ? value : util.inspect(value), ...bundle }, main)
}

function showAll(bundle, main) {
  const event = { type: 'result', is_main_result: main }
  for (const [mime, data] of Object.entries(bundle))
    if (NAMES[mime]) event[NAMES[mime]] = data
    else (event.extra ??= {})[mime] = data
  tell(event)
}

function resolved(name) {
  if (module.isBuiltin(name) || /^[a-z][a-z+.-]+:/i.test(name)) return name
  return import.meta.resolve(name, pathToFileURL(home).href)
}

function hide(name, value) {
  Object.defineProperty(globalThis, name, { value, configurable: true, writable: true, enumerable: false })
}

// Node warns that it may change: it is pinned in the template.
function quietly(work) {
  const emit = process.emitWarning
  process.emitWarning = () => {}
  try { return work() } finally { process.emitWarning = emit }
}

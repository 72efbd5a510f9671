// Prints, as JSON, the public calls of the installed clients, in the words of docs/e2b.md: `Sandbox.get_info`.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const require = createRequire(process.env.PACKAGES + '/')
const e2b = require('e2b')
const interpreter = require('@e2b/code-interpreter')
const desktop = require('@e2b/desktop')
const OWN = new Set(['length', 'name', 'prototype', 'constructor'])
const NAMES = { VNCServer: 'stream', Filesystem: 'files', Commands: 'commands', Pty: 'pty', Git: 'git', TemplateBase: 'Template' }

function hidden () {
  // What the types say is private or protected, as `Class.name`; JavaScript knows no such thing.
  const names = new Set()
  for (const module of ['e2b', '@e2b/code-interpreter', '@e2b/desktop']) {
    const types = readFileSync(require.resolve(module).replace(/\.\w+$/, '.d.ts'), 'utf8')
    for (const [, name, body] of types.matchAll(/^declare (?:abstract )?class (\w+)[^{]*\{\n(.*?)^\}/gms)) {
      for (const [, member] of body.matchAll(/^ +(?:private|protected) (?:static |readonly |get )*(\w+)/gm)) {
        names.add(`${name}.${member}`)
      }
    }
  }
  return names
}

function * functionsOf (name, type) {
  const builder = name === 'TemplateBase' ? 'TemplateBuilder' : NAMES[name] ?? name
  for (let at = type; at && at !== Function.prototype; at = Object.getPrototypeOf(at)) {
    for (const [spoken, object] of [[NAMES[name] ?? name, at], [builder, at.prototype]]) {
      for (const [call, { value }] of Object.entries(Object.getOwnPropertyDescriptors(object))) {
        const known = typeof value !== 'function' || OWN.has(call) || call.startsWith('_')
        if (!known && !HIDDEN.has(`${at.name}.${call}`)) yield `${spoken}.${call}`
      }
    }
  }
}

function isClass (value) {
  return typeof value === 'function' && /^class\b/.test(Function.prototype.toString.call(value))
}

const HIDDEN = hidden()
const found = new Set()
const VNCServer = new desktop.Sandbox({ sandboxId: 'none', apiKey: 'e2b_00' }).stream.constructor
for (const exported of [e2b, { Sandbox: interpreter.Sandbox }, { Sandbox: desktop.Sandbox, VNCServer }]) {
  for (const [name, type] of Object.entries(exported)) {
    if (name === 'default' || !isClass(type) || type.prototype instanceof Error) continue
    for (const call of functionsOf(name, type)) {
      const [spoken, method] = call.split('.')
      found.add(`${spoken}.${method.replace(/[A-Z]/g, (letter) => '_' + letter.toLowerCase())}`)
    }
  }
}
console.log(JSON.stringify([...found].sort()))

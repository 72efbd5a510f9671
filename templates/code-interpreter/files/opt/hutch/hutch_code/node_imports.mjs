// `import` statements and calls, for code that is no module: both become calls of a function.
import { init, parse } from 'es-module-lexer'

await init

export function translate(code, call) {
  let imports
  try {
    [imports] = parse(code)
  } catch {
    return code // the engine says what is wrong with it
  }
  let made = ''
  let at = 0
  for (const { ss: start, se: end, d: dynamic, n: name, s, e } of imports) {
    if (dynamic === -2) continue // import.meta
    if (dynamic > -1) {
      made += code.slice(at, start) + call
      at = start + 'import'.length
      continue
    }
    made += code.slice(at, start) + statement(code.slice(start + 'import'.length, s - 1), name ?? code.slice(s, e), call)
    at = end
  }
  return made + code.slice(at)
}

// What stands between `import` and the name of the module.
function statement(clause, name, call) {
  const found = `await ${call}(${JSON.stringify(name)})`
  const wanted = clause.trim().replace(/\s*from$/, '').trim()
  if (!wanted) return found
  const [, own, , all, some] = wanted.match(/^([\w$]+)?\s*(,)?\s*(?:\*\s*as\s+([\w$]+)|\{([^]*)\})?$/) ?? []
  const parts = []
  if (all) parts.push(`const ${all} = ${found}`)
  const from = all ?? found
  const names = (some ?? '').split(',').map((each) => each.trim()).filter(Boolean).map((each) => each.replace(/\s+as\s+/, ': '))
  if (own) names.unshift(`default: ${own}`)
  if (names.length) parts.push(`const { ${names.join(', ')} } = ${from}`)
  return parts.length ? parts.join('; ') : found
}

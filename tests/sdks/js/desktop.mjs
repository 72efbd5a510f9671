// Runs where E2B's desktop client for JavaScript is, and no Hutch. E2B_* leads to a Hutch.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { after, before, test } from 'node:test'

const require = createRequire(process.env.PACKAGES + '/')
const { Sandbox } = require('@e2b/desktop')

let desktop
before(async () => {
  desktop = await Sandbox.create({ resolution: [800, 600], timeoutMs: 600_000 })
})
after(() => desktop?.kill())

test('the screen, the mouse and the keyboard', async () => {
  assert.deepEqual(await desktop.getScreenSize(), { width: 800, height: 600 })
  await desktop.moveMouse(100, 200)
  assert.deepEqual(await desktop.getCursorPosition(), { x: 100, y: 200 })
  assert.deepEqual([...(await desktop.screenshot()).slice(1, 4)], [...Buffer.from('PNG')])
  // XFCE's processes are there, but what it draws may come later and take the focus.
  assert.ok(await desktop.waitAndVerify('xdotool search --onlyvisible --class xfdesktop', () => true, 60))
  await desktop.launch('pterm')
  assert.ok(await desktop.waitAndVerify('xdotool search --onlyvisible --class pterm', (found) => found.exitCode === 0, 60))
  const [window] = await desktop.getApplicationWindows('pterm')
  await desktop.commands.run(`xdotool windowactivate --sync ${window}`)
  assert.equal(await desktop.getCurrentWindowId(), window)
  assert.ok(await desktop.waitAndVerify(`xdotool getwindowname ${window} | grep user@`, () => true, 60)) // the shell's first prompt
  assert.match(await desktop.getWindowTitle(window), /user@/)
  await desktop.write('touch typed', { chunkSize: 25, delayInMs: 5 })
  await desktop.press('enter')
  assert.ok(await desktop.waitAndVerify('[ -e typed ]', () => true, 60))
})

test('the stream', async () => {
  await desktop.stream.start({ requireAuth: true })
  const key = desktop.stream.getAuthKey()
  assert.equal(desktop.stream.getUrl({ authKey: key }),
    `https://${desktop.getHost(6080)}/vnc.html?autoconnect=true&resize=scale&password=${key}`)
  const headers = { 'E2b-Sandbox-Id': desktop.sandboxId, 'E2b-Sandbox-Port': '6080' }
  const page = await fetch(`${process.env.E2B_SANDBOX_URL}/vnc.html`, { headers })
  assert.match(await page.text(), /noVNC/)
  const viewer = new WebSocket(`${process.env.E2B_SANDBOX_URL}/websockify`, { headers, protocols: ['binary'] })
  const first = await new Promise((resolve, reject) => {
    viewer.onmessage = async ({ data }) => resolve(await data.text())
    viewer.onerror = reject
  })
  assert.equal(first, 'RFB 003.008\n')
  viewer.close()
  await desktop.stream.stop()
})

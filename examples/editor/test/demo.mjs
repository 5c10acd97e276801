// The demo's program, started as a user starts it, and its cluster seen from outside.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import readline from 'node:readline'
import { fileURLToPath } from 'node:url'
import { until } from './wait.mjs'

const SERVE = fileURLToPath(new URL('../serve.mjs', import.meta.url))
const CHROMIUMS = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome', '/usr/bin/google-chrome-stable']

/** The browser that CHROMIUM names, or one at a usual place; `null` if there is none. */
export function findChromium() {
  const named = process.env.CHROMIUM
  if (named) {
    if (!existsSync(named)) throw new Error(`CHROMIUM is ${named}, and there is no such file`)
    return named
  }
  return CHROMIUMS.find((file) => existsSync(file)) ?? null
}

export class Demo {
  #process
  #exit
  #folder
  #lost = new Map()
  #stopped = false
  url = null

  /** Starts it with a cluster in `folder`, on free ports, and waits until it serves. */
  static async start(folder) {
    const demo = new Demo()
    demo.#folder = path.join(folder, 'cluster')
    const words = [SERVE, '--port', '0', '--data', demo.#folder, '--wan-latency', '80ms']
    demo.#process = spawn(process.execPath, words, { stdio: ['ignore', 'pipe', 'inherit'] })
    demo.#exit = new Promise((resolve) => demo.#process.once('exit', resolve))
    // The nodes should not outlive a test that is ended from outside.
    process.once('SIGTERM', async () => {
      await demo.stop()
      process.exit(1)
    })
    demo.url = await new Promise((resolve, reject) => {
      readline.createInterface({ input: demo.#process.stdout }).on('line', (line) => {
        const url = line.match(/http:\S+/)
        if (url) resolve(url[0])
      })
      demo.#exit.then((code) => reject(new Error(`the demo ended with ${code}`)))
    })
    return demo
  }

  async state() {
    const answer = await fetch(new URL('api/state', this.url))
    assert.equal(answer.status, 200)
    return answer.json()
  }

  /** What each node that runs reads by HTTP, by its name. */
  async texts(document) {
    const nodes = (await this.state()).dcs.flatMap((dc) => dc.nodes).filter((node) => node.state !== 'dead')
    const read = async ({ name, client }) => {
      const url = `http://${client}/v1/spaces/default/docs/${encodeURIComponent(document)}?format=text&root=text`
      const answer = await fetch(url)
      const body = await answer.text()
      assert.equal(answer.status, 200, `${name}: ${body}`)
      return [name, body]
    }
    return Object.fromEntries(await Promise.all(nodes.map(read)))
  }

  /** From now on a page may say that it cannot reach this node. */
  async expectsLossOf(node) {
    const { dcs } = await this.state()
    this.#lost.set(node, dcs.flatMap((dc) => dc.nodes).find(({ name }) => name === node).client)
  }

  /** Whether what a page complains of is a node that was killed. */
  explains(complaint) {
    return [...this.#lost.values()].some((client) => complaint.includes(`WebSocket connection to 'ws://${client}/`))
  }

  async refusesOthers() {
    const kill = (headers, body = '{"node":"eu-west/1"}', action = 'kill') =>
      fetch(new URL(`api/${action}`, this.url), { method: 'POST', headers, body }).then((answer) => answer.status)
    const own = { origin: new URL(this.url).origin }
    assert.equal(await kill({}), 403)
    assert.equal(await kill({ origin: 'http://example.org' }), 403)
    assert.equal(await kill(own, '{"node":"--help"}'), 400)
    assert.equal(await kill(own, 'eu-west/1'), 400)
    assert.equal(await kill(own, ' '.repeat(5000)), 413)
    assert.equal(await kill(own, '{"node":"eu-west/9"}'), 500)
    assert.equal(await kill(own, '{}', 'toString'), 404)
    assert.ok((await this.state()).dcs.every((dc) => dc.nodes.every((node) => node.state !== 'dead')))
  }

  /** Ends it as Ctrl-C does; neither the program nor any node is left. */
  async stop() {
    if (this.#stopped) return
    this.#stopped = true
    const file = path.join(this.#folder, 'cluster.json')
    const { dcs } = existsSync(file) ? JSON.parse(await readFile(file, 'utf8')) : { dcs: [] }
    this.#process.kill('SIGINT')
    assert.equal(await this.#exit, 0)
    const pids = dcs.flatMap((dc) => dc.nodes).map((node) => node.pid).filter((pid) => pid !== null)
    await until('no node is left', () => assert.deepEqual(pids.filter(lives), []))
  }
}

function lives(pid) {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    if (error.code === 'ESRCH') return false
    throw error
  }
}

// The geo-cluster that the page shows: started here as `meridian dev`, or one that runs already. It is known by its
// `cluster.json`, asked at its nodes' client ports, and broken and mended by the program itself.

import { execFile, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import readline from 'node:readline'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const REPOSITORY = fileURLToPath(new URL('../../..', import.meta.url))
const RELEASE = path.join(REPOSITORY, 'target/release/meridian')
/** How long a node may take to say how it is. */
const STATUS_LIMIT_MS = 800
/** How long breaking or mending something may take; `dev` itself gives up after 10 s. */
const CONTROL_LIMIT_MS = 15_000
/** How long the nodes may take to be ready, also on a busy machine. */
const READY_LIMIT_MS = 120_000
/** How long `dev` may take to stop all nodes before it is killed, and they with it. */
const STOP_LIMIT_MS = 30_000

/** The program: the one that the variable MERIDIAN names, or the release build, which is made if there is none. */
export async function findProgram(say) {
  const named = process.env.MERIDIAN
  if (named) {
    if (!existsSync(named)) throw new Error(`MERIDIAN is ${named}, and there is no such file`)
    return path.resolve(named)
  }
  if (!existsSync(RELEASE)) {
    say('building target/release/meridian, which takes a few minutes once')
    await build()
  }
  return RELEASE
}

function build() {
  return new Promise((resolve, reject) => {
    const cargo = spawn('cargo', ['build', '--release', '--package', 'meridian'], {
      cwd: REPOSITORY,
      // Cargo's progress is not the answer of this program.
      stdio: ['ignore', 2, 2],
    })
    cargo.on('error', (error) => reject(new Error(`cargo cannot be run (${error.message}): install Rust, or set MERIDIAN`)))
    cargo.on('exit', (code) => code === 0 ? resolve() : reject(new Error('cargo did not build it')))
  })
}

export class Cluster {
  #program
  #folder
  #dev = null
  #temporary = false
  #cuts = new Set()

  constructor(program, folder) {
    this.#program = program
    this.#folder = folder
  }

  /** One that runs already in that folder. */
  static async join(program, folder) {
    const cluster = new Cluster(program, path.resolve(folder))
    await cluster.description()
    return cluster
  }

  /**
   * Starts one, in `folder` or in one that is removed in the end, and waits until it is ready. `ended` is called if it ends
   * by itself later.
   */
  static async start(program, { folder, latency, signal, ended }) {
    signal.throwIfAborted()
    const made = folder ?? await mkdtemp(path.join(tmpdir(), 'meridian-editor-'))
    const cluster = new Cluster(program, path.resolve(made))
    cluster.#temporary = folder === undefined
    try {
      await cluster.#run(latency, signal, ended)
    } catch (error) {
      await cluster.stop()
      throw error
    }
    return cluster
  }

  #run(latency, signal, ended) {
    const words = ['dev', '--json', '--data', this.#folder, '--wan-latency', latency]
    const dev = spawn(this.#program, words, { stdio: ['ignore', 'pipe', 2] })
    const exit = new Promise((resolve) => dev.once('exit', resolve))
    this.#dev = { process: dev, exit, stopping: false }
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error('the nodes were not ready in time')), READY_LIMIT_MS).unref()
      signal.addEventListener('abort', () => reject(signal.reason), { once: true })
      dev.once('error', (error) => reject(new Error(`${this.#program} cannot be run: ${error.message}`)))
      exit.then((code) => {
        reject(new Error(`meridian dev ended with ${code}`))
        if (!this.#dev.stopping) ended(code)
      })
      // The first line is the cluster; each later one is a datacenter of which something has changed.
      readline.createInterface({ input: dev.stdout }).on('line', (line) => {
        clearTimeout(late)
        resolve()
        this.#heard(JSON.parse(line))
      })
    })
  }

  #heard({ dc, cut_from: others }) {
    if (!others) return
    for (const pair of this.#cuts) if (pair.split(' ').includes(dc)) this.#cuts.delete(pair)
    for (const other of others) this.#cuts.add(pairOf(dc, other))
  }

  /** Stops it, if it was started here, and removes its folder, if that is temporary. */
  async stop() {
    if (!this.#dev) return
    const { process: dev, exit } = this.#dev
    this.#dev.stopping = true
    if (dev.pid !== undefined && dev.exitCode === null && dev.signalCode === null) {
      dev.kill('SIGTERM')
      const late = setTimeout(() => dev.kill('SIGKILL'), STOP_LIMIT_MS)
      await exit
      clearTimeout(late)
    }
    if (this.#temporary) await rm(this.#folder, { recursive: true, force: true })
  }

  /** Datacenters and nodes, their addresses and whether they run, as `dev` has written them. */
  async description() {
    const file = path.join(this.#folder, 'cluster.json')
    const text = await readFile(file, 'utf8').catch((error) => {
      throw new Error(`no cluster runs in ${this.#folder}: ${error.message}`)
    })
    return JSON.parse(text)
  }

  /** The pairs of datacenters between which the bytes are stopped, as far as is known here. */
  cuts() {
    return this.#cuts
  }

  /** What each node says of itself, by its name; `null` for one that does not answer. */
  async statuses({ dcs }) {
    const nodes = dcs.flatMap((dc) => dc.nodes.map((node) => ({ name: `${dc.name}/${node.id}`, ...node })))
    const told = nodes.map(async ({ name, client, pid }) => [name, pid === null ? null : await statusOf(client)])
    return Object.fromEntries(await Promise.all(told))
  }

  async cut(a, b) {
    await this.#control('cut', a, b)
    this.#cuts.add(pairOf(a, b))
  }

  async heal(a, b) {
    await this.#control('heal', a, b)
    this.#cuts.delete(pairOf(a, b))
  }

  async kill(node) {
    await this.#control('kill', node)
  }

  async restart(node) {
    await this.#control('restart', node)
  }

  async #control(...words) {
    try {
      const options = { timeout: CONTROL_LIMIT_MS }
      await promisify(execFile)(this.#program, ['dev', ...words, '--data', this.#folder], options)
    } catch (error) {
      throw new Error(error.stderr?.trim() || error.message)
    }
  }
}

/** A name for a pair of datacenters, whichever is named first. */
export function pairOf(a, b) {
  return [a, b].sort().join(' ')
}

async function statusOf(client) {
  try {
    const answer = await fetch(`http://${client}/v1/status`, { signal: AbortSignal.timeout(STATUS_LIMIT_MS) })
    return answer.ok ? await answer.json() : null
  } catch {
    // A node that has just died, or is about to live, is shown as one that does not answer.
    return null
  }
}

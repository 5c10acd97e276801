// The servers that are compared: each starts its processes, says where a document is reached, and what they have used.

import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = fileURLToPath(new URL('.', import.meta.url))
const PATIENCE_MS = 60_000
const TICK_US = 10_000

async function until(what, condition) {
  const deadline = Date.now() + PATIENCE_MS
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`${what} takes too long`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.on('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address()
      server.close(() => resolve(port))
    })
  })
}

/** Processor time of a process in microseconds, and its memory in bytes. */
function used(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const pages = Number(readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[1])
  return { cpuUs: (Number(fields[11]) + Number(fields[12])) * TICK_US, rss: pages * 4096 }
}

class System {
  /** What all processes of the servers have used together. */
  used() {
    return this.pids.map(used).reduce((a, b) => ({ cpuUs: a.cpuUs + b.cpuUs, rss: a.rss + b.rss }))
  }
}

/** A server in Node, from a script of this folder. */
class NodeServer extends System {
  static async start(name, script, url, named) {
    const system = new NodeServer()
    const port = await freePort()
    Object.assign(system, { name, named })
    system.child = spawn(process.execPath, [join(here, script)], {
      env: { ...process.env, HOST: '127.0.0.1', PORT: String(port) },
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    system.pids = [system.child.pid]
    const ended = new Promise((_, reject) => system.child.on('exit', (code) => reject(new Error(`${name} ended: ${code}`))))
    ended.catch(() => {})
    await Promise.race([new Promise((resolve) => system.child.stdout.once('data', resolve)), ended])
    system.child.stdout.resume()
    system.url = (doc) => url(port, doc)
    return system
  }

  async stop() {
    const ended = new Promise((resolve) => this.child.on('exit', resolve))
    this.child.kill('SIGKILL')
    await ended
  }
}

/** The node that leads a datacenter, once one does. */
async function leaderOf(members) {
  let leader = members[0]
  await until('an election', async () => {
    const status = await (await fetch(`http://${leader.client}/v1/status`)).json()
    leader = members.find((member) => member.id === status.leader) ?? leader
    return status.leader === leader.id && status.node === leader.id
  })
  return leader
}

/** A datacenter of Meridian, or several: every edit is on the disks of a majority before anybody sees it. */
class Meridian extends System {
  static async start(binary, nodes, protocol, { dcs = 1, latencyMs = 0 } = {}) {
    const system = new Meridian()
    const hocuspocus = protocol === 'hocuspocus'
    const words = nodes === 1 ? '1 node' : `${nodes} nodes`
    Object.assign(system, { name: `Meridian, ${words}, ${protocol}`, named: hocuspocus })
    system.folder = mkdtempSync(join(tmpdir(), 'meridian-bench-'))
    const args = ['dev', '--dcs', String(dcs), '--nodes', String(nodes), '--wan-latency', `${latencyMs}ms`, '--data', system.folder]
    system.child = spawn(binary, args, { stdio: 'ignore' })
    const description = join(system.folder, 'cluster.json')
    await until('the start of Meridian', () => existsSync(description))
    const datacenters = JSON.parse(readFileSync(description, 'utf8')).dcs
    system.pids = datacenters.flatMap(({ nodes: members }) => members.map((member) => member.pid))
    const bases = []
    for (const { nodes: members } of datacenters) bases.push(`ws://${(await leaderOf(members)).client}/v1/spaces/default`)
    system.urlIn = (dc, doc) => (hocuspocus ? `${bases[dc]}/hocuspocus` : `${bases[dc]}/docs/${encodeURIComponent(doc)}`)
    system.url = (doc) => system.urlIn(0, doc)
    return system
  }

  async stop() {
    const ended = new Promise((resolve) => this.child.on('exit', resolve))
    this.child.kill('SIGINT')
    await ended
    rmSync(this.folder, { recursive: true, force: true })
  }
}

/** Two datacenters of Meridian, so far apart. */
export function farApart(binary, latencyMs) {
  return Meridian.start(binary, 3, 'y-websocket', { dcs: 2, latencyMs })
}

/** All systems, by what starts them. */
export function systems(binary) {
  const yWebsocket = (port, doc) => `ws://127.0.0.1:${port}/${encodeURIComponent(doc)}`
  const hocuspocus = (port) => `ws://127.0.0.1:${port}`
  return [
    () => NodeServer.start('@y/websocket-server 0.1.1', 'y-websocket-server.mjs', yWebsocket, false),
    () => NodeServer.start('@hocuspocus/server 3.4.4', 'hocuspocus-server.mjs', hocuspocus, true),
    () => Meridian.start(binary, 1, 'y-websocket'),
    () => Meridian.start(binary, 1, 'hocuspocus'),
    () => Meridian.start(binary, 3, 'y-websocket'),
    () => Meridian.start(binary, 3, 'hocuspocus'),
  ]
}

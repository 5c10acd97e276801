// Measures Meridian's documents beside @y/websocket-server and @hocuspocus/server on this machine, one after the other,
// and writes a table. `node run.mjs --help` says what can be chosen.

import { writeFileSync } from 'node:fs'
import { cpus } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import * as Y from 'yjs'

import { Drain } from './drain.mjs'
import { farApart, systems } from './systems.mjs'
import { Editor, opening } from './wire.mjs'

const { values: options } = parseArgs({
  options: {
    binary: { type: 'string', default: fileURLToPath(new URL('../../target/guided/meridian', import.meta.url)) },
    report: { type: 'string' },
    updates: { type: 'string', default: '20000' },
    readers: { type: 'string', default: '20' },
    joins: { type: 'string', default: '100' },
    rooms: { type: 'string', default: '1000' },
    storm: { type: 'string', default: '150' },
    only: { type: 'string', default: '' },
    help: { type: 'boolean', default: false },
  },
})
if (options.help) {
  console.log('node run.mjs [--binary PATH] [--report FILE.md] [--updates N] [--readers N] [--joins N] [--rooms N] [--storm N] [--only NUMBER,NUMBER (of the systems, from 0 on)]')
  process.exit(0)
}
const UPDATES = Number(options.updates)
const READERS = Number(options.readers)
const JOINS = Number(options.joins)
const ROOMS = Number(options.rooms)
const STORM = Number(options.storm)
/** Updates that the writer is ahead of its first reader: no server takes this for flooding. */
const WINDOW = 256
/** Updates per second of a writer who does not hurry, and for how long. */
const PACED = 400
const PACED_SECONDS = 8
const LARGE_DOC_CHARS = 100_000
/** The document that many join at once: so many insertions of so many characters, so many in an update. */
const HUGE = { inserts: 200_000, chars: 80, inUpdate: 5_000 }
/** One-way delays between two datacenters, and what is typed over them. */
const DELAYS_MS = [0, 20, 80]
const KEYSTROKES = 200
const KEYSTROKES_PER_SECOND = 20

/** What one editor sends who types `count` characters at the end. */
function typed(count) {
  const doc = new Y.Doc()
  const updates = []
  doc.on('update', (update) => updates.push(Buffer.from(update)))
  const text = doc.getText('t')
  for (let i = 0; i < count; i++) text.insert(i, String.fromCharCode(97 + (i % 26)))
  return updates
}

/** A document of many edits at random places, as one update: what a joining editor is sent. */
function large() {
  const doc = new Y.Doc()
  const text = doc.getText('t')
  let seed = 1
  for (let length = 0; length < LARGE_DOC_CHARS; length += 10) {
    seed = (seed * 48271) % 2147483647
    text.insert(seed % (length + 1), 'characters')
  }
  return Buffer.from(Y.encodeStateAsUpdate(doc))
}

const editor = (system, doc, on) => new Editor(system.url(doc), { name: system.named ? doc : null, on })
const percentile = (sorted, q) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))]

/**
 * One writes, `count` read: what the servers use until all have everything, and how long an update is under way. Written
 * is as fast as the first reader gets it, or `perSecond`.
 */
async function fanOut(system, doc, updates, count, perSecond = Infinity) {
  const received = new Array(count).fill(0)
  const sentAt = new Float64Array(updates.length)
  const took = []
  let sent = 0
  let unfinished = count
  let done
  const all = new Promise((resolve) => { done = resolve })
  let more = () => {}
  const readers = []
  for (let i = 0; i < count; i++) {
    const update = () => {
      const n = received[i]++
      if (i === 0) {
        took.push(performance.now() - sentAt[n])
        more()
      }
      if (received[i] === updates.length && --unfinished === 0) done()
    }
    readers.push(await editor(system, doc, { update }).join())
  }
  const writer = await editor(system, doc, {}).join()
  const before = system.used()
  const start = performance.now()
  const write = () => {
    sentAt[sent] = performance.now()
    writer.update(updates[sent++])
  }
  let ticking
  if (perSecond === Infinity) {
    more = () => { while (sent < updates.length && sent - received[0] < WINDOW) write() }
    more()
  } else {
    const due = () => Math.min(updates.length, ((performance.now() - start) / 1000) * perSecond)
    ticking = setInterval(() => { while (sent < due()) write() }, 1)
  }
  const closed = Promise.race([writer, ...readers].map((one) => one.closed))
  const end = await Promise.race([all, closed])
  clearInterval(ticking)
  if (end !== undefined) throw new Error(`an editor was closed with ${end}`)
  const seconds = (performance.now() - start) / 1000
  const cpuUs = system.used().cpuUs - before.cpuUs
  await Promise.all([writer, ...readers].map((one) => one.close()))
  took.sort((a, b) => a - b)
  return { cpuUs, perSecond: updates.length / seconds, p50: percentile(took, 0.5), p99: percentile(took, 0.99) }
}

/** How fast one connection's updates are called saved. */
async function saved(system, updates) {
  let count = 0
  let more = () => {}
  let done
  const all = new Promise((resolve) => { done = resolve })
  const writer = await editor(system, 'saved', {
    saved: (accepted) => {
      if (!accepted) throw new Error('an update was refused')
      if (++count === updates.length) done()
      more()
    },
  }).join()
  let sent = 0
  const start = performance.now()
  more = () => { while (sent < updates.length && sent - count < 4 * WINDOW) writer.update(updates[sent++]) }
  more()
  const end = await Promise.race([all, writer.closed])
  if (end !== undefined) throw new Error(`the writer was closed with ${end}`)
  const seconds = (performance.now() - start) / 1000
  await writer.close()
  return updates.length / seconds
}

/** Editors who open a document one after the other. */
async function joins(system, update, count) {
  const keeper = await editor(system, 'large', {}).join()
  let there = false
  const first = await editor(system, 'large', { update: () => { there = true } }).join()
  keeper.update(update)
  while (!there) await new Promise((resolve) => setTimeout(resolve, 5))
  const took = []
  const before = system.used()
  for (let i = 0; i < count; i++) {
    const start = performance.now()
    const one = await editor(system, 'large', {}).join()
    took.push(performance.now() - start)
    if (one.bytes < update.length / 2) throw new Error(`a joining editor got ${one.bytes} bytes only`)
    await one.close()
  }
  const cpuUs = system.used().cpuUs - before.cpuUs
  await Promise.all([keeper.close(), first.close()])
  took.sort((a, b) => a - b)
  return { cpuMs: cpuUs / count / 1000, p50: percentile(took, 0.5) }
}

/** A document of some 20 MB, as the updates of its author. */
function huge() {
  const doc = new Y.Doc()
  const updates = []
  doc.on('update', (update) => updates.push(Buffer.from(update)))
  const text = doc.getText('t')
  const words = 'x'.repeat(HUGE.chars)
  let seed = 1
  for (let done = 0; done < HUGE.inserts;) {
    doc.transact(() => {
      for (let i = 0; i < HUGE.inUpdate; i++, done++) {
        // Near the end: where Yjs finds the place quickly.
        seed = (seed * 48271) % 2147483647
        text.insert(Math.max(0, text.length - (seed % 1000)), words)
      }
    })
  }
  return updates
}

/** Many who open a large document in the same moment: what the servers use, and how far their memory goes up. */
async function storm(system, updates, count) {
  let there = 0
  const first = await editor(system, 'huge', { update: () => { there++ } }).join()
  const author = await editor(system, 'huge', {}).join()
  for (const [place, update] of updates.entries()) {
    author.update(update)
    while (there <= place) await new Promise((resolve) => setTimeout(resolve, 5))
  }
  const whole = await editor(system, 'huge', {}).join()
  const size = whole.bytes
  await whole.close()
  // Whatever was ready for that one is of no use any more.
  author.update(typed(1)[0])
  while (there === updates.length) await new Promise((resolve) => setTimeout(resolve, 5))
  const joining = Array.from({ length: count }, () => new Drain(system.url('huge'), opening(system.named ? 'huge' : null)))
  await Promise.all(joining.map((one) => one.opened))
  const before = system.used()
  const start = performance.now()
  let peak = before.rss
  const watch = setInterval(() => { peak = Math.max(peak, system.used().rss) }, 10)
  joining.forEach((one) => one.ask())
  await Promise.all(joining.map((one) => one.has(size)))
  const seconds = (performance.now() - start) / 1000
  clearInterval(watch)
  const cpuUs = system.used().cpuUs - before.cpuUs
  joining.forEach((one) => one.close())
  await Promise.all([author.close(), first.close()])
  return { storm_bytes: size, storm_s: seconds, storm_cpu_s: cpuUs / 1e6, storm_before_mib: before.rss / 2 ** 20, storm_more_mib: (peak - before.rss) / 2 ** 20 }
}

/** Somebody types in one datacenter, and somebody looks on in another. */
async function keystrokes(system) {
  // The first second is to warm up.
  const updates = typed(KEYSTROKES_PER_SECOND + KEYSTROKES)
  const sentAt = []
  const took = []
  let done
  const all = new Promise((resolve) => { done = resolve })
  const update = () => {
    took.push(performance.now() - sentAt[took.length])
    if (took.length === updates.length) done()
  }
  const reader = await new Editor(system.urlIn(1, 'keys'), { on: { update } }).join()
  const writer = await new Editor(system.urlIn(0, 'keys')).join()
  const typing = setInterval(() => {
    if (sentAt.length === updates.length) return clearInterval(typing)
    writer.update(updates[sentAt.push(performance.now()) - 1])
  }, 1000 / KEYSTROKES_PER_SECOND)
  await all
  await Promise.all([reader.close(), writer.close()])
  const counted = took.slice(KEYSTROKES_PER_SECOND).sort((a, b) => a - b)
  return { p50: percentile(counted, 0.5), p99: percentile(counted, 0.99) }
}

/** Memory of rooms with one connection and one small document each. */
async function rooms(system, update, count) {
  const open = []
  const before = system.used()
  for (let i = 0; i < count; i++) {
    const one = await editor(system, `room-${i}`, {}).join()
    one.update(update)
    open.push(one)
  }
  // All edits are in once a newcomer of the last room has it.
  let bytes = 0
  while (bytes < update.length) {
    const newcomer = await editor(system, `room-${count - 1}`, {}).join()
    bytes = newcomer.bytes
    await newcomer.close()
  }
  const rss = system.used().rss - before.rss
  await Promise.all(open.map((one) => one.close()))
  return rss / count / 1024
}

async function measure(start) {
  const results = {}
  const each = async (name, act) => {
    // Each part has servers of its own, so that none pays for what another one left behind.
    const system = await start()
    results.name = system.name
    try {
      Object.assign(results, await act(system))
      console.error(system.name, name, JSON.stringify(results))
    } finally {
      await system.stop()
    }
  }
  const updates = typed(UPDATES)
  await each('edits', async (system) => {
    await fanOut(system, 'warm', typed(2000), 1)
    const one = await fanOut(system, 'one', updates, 1)
    const many = await fanOut(system, 'many', updates, 1 + READERS)
    const delivery = (many.cpuUs - one.cpuUs) / UPDATES / READERS
    return {
      delivery_us: delivery,
      ingest_us: one.cpuUs / UPDATES - delivery,
      updates_per_s: one.perSecond,
      update_p50_ms: one.p50,
      update_p99_ms: one.p99,
    }
  })
  await each('calm', async (system) => {
    await fanOut(system, 'warm', typed(PACED), 1, PACED)
    const calm = updates.slice(0, PACED * PACED_SECONDS)
    const { cpuUs, p50 } = await fanOut(system, 'calm', calm, 1 + READERS, PACED)
    return { calm_delivery_us: cpuUs / calm.length / (1 + READERS), calm_p50_ms: p50 }
  })
  await each('saved', async (system) => (system.named ? { saved_per_s: await saved(system, updates) } : {}))
  const document = large()
  await each('joins', async (system) => {
    const { cpuMs, p50 } = await joins(system, document, JOINS)
    return { join_cpu_ms: cpuMs, join_p50_ms: p50, join_bytes: document.length }
  })
  await each('storm', async (system) => storm(system, huge(), STORM))
  await each('rooms', async (system) => ({ room_kib: await rooms(system, typed(1)[0], ROOMS) }))
  return results
}

const COLUMNS = [
  ['delivery_us', 'CPU for one delivery more, at full speed, µs'],
  ['calm_delivery_us', `all CPU for each delivery at ${PACED} updates/s, µs`],
  ['calm_p50_ms', 'to a reader p50, ms'],
  ['ingest_us', 'CPU for each update, µs'],
  ['updates_per_s', 'updates/s, one writer'],
  ['update_p50_ms', 'to a reader then p50, ms'],
  ['update_p99_ms', 'p99, ms'],
  ['saved_per_s', 'called saved/s'],
  ['join_cpu_ms', 'CPU for each join, ms'],
  ['join_p50_ms', 'join p50, ms'],
  ['room_kib', 'a room, KiB'],
  ['storm_s', `${STORM} join a large document at once, s`],
  ['storm_cpu_s', 'CPU, s'],
  ['storm_before_mib', 'memory before, MiB'],
  ['storm_more_mib', 'more at most, MiB'],
]

const number = (n) => (n === undefined ? '' : n >= 100 ? Math.round(n).toLocaleString('en') : n.toFixed(n >= 10 ? 1 : 2))

const lines = [
  `| Server | ${COLUMNS.map(([, title]) => title).join(' | ')} |`,
  `|---|${COLUMNS.map(() => '--:').join('|')}|`,
]
for (const start of systems(options.binary).filter((_, i) => options.only === '' || options.only.split(',').includes(String(i)))) {
  const results = await measure(start)
  lines.push(`| ${results.name} | ${COLUMNS.map(([key]) => number(results[key])).join(' | ')} |`)
}
const far = ['| One-way delay, ms | beyond it p50, ms | p99, ms |', '|--:|--:|--:|']
for (const delay of DELAYS_MS) {
  const system = await farApart(options.binary, delay)
  const { p50, p99 } = await keystrokes(system)
  await system.stop()
  console.error('keystrokes over', delay, 'ms:', p50, p99)
  far.push(`| ${delay} | ${number(p50 - delay)} | ${number(p99 - delay)} |`)
}
const head = `# Benchmarks of documents

Written by \`bench/documents/run\`. Servers ran one after the other on the same machine under the same load: unmodified updates of Yjs, counted and
not decoded where they arrive. The others keep nothing; Meridian has each update on the disks of a majority before anybody sees it.
Of three nodes everything is added up. At full speed frames are gathered into few writes, which is why one delivery more costs so little then. At
${PACED} updates/s a write is of what has come in 20 ms, and the figure is all that the servers use, commits and idling included, for each
update that reaches one of ${1 + READERS} readers. The large document is of ${HUGE.inserts.toLocaleString('en')} insertions of ${HUGE.chars} characters.
`
const report = `${head}\n${lines.join('\n')}\n\n## From one datacenter to another\n
From the moment in which somebody types in one datacenter until it is with somebody else in another, both at their leaders, ${KEYSTROKES_PER_SECOND} times a
second, over links of so much delay; two datacenters of three nodes.\n\n${far.join('\n')}\n\n${cpus().length} cores (${cpus()[0].model}), Node ${process.version}. \
${UPDATES} updates of one character, ${READERS} readers more for what a delivery costs, ${JOINS} joins to a document of ${LARGE_DOC_CHARS} characters, ${ROOMS} rooms.\n`
if (options.report) writeFileSync(options.report, report)
console.log(report)
process.exit(0)

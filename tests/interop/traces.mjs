// Replays a real editing trace through unmodified clients of y-websocket, and says what came of it.
//
//   node traces.mjs TRACE.json.gz DOC SERVER...
//
// A server is host:port. Of a sequential trace each edit is typed at the first one. Of a concurrent trace each agent types at
// a server of its own, and what it builds on is exactly what the trace says: its edits are made beforehand, in documents
// that have merged no more than their parents, and then sent as they were made. At the end every client and every
// server has to have the text of the trace. The traces (CC BY 4.0, Martin Kleppmann and Joseph Gentle) are not part of the
// project; docs/TESTING.md says where they are from.

import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import WebSocket from 'ws'
import { WebsocketProvider } from 'y-websocket'
import * as Y from 'yjs'

import { until as waitUntil } from './wait.mjs'

const WAIT = { patience: 120_000, pause: 5 }
/** Edits between two turns of the event loop, in which what was typed is sent. */
const TURN = 100

const [file, name, ...servers] = process.argv.slice(2)
const trace = JSON.parse(gunzipSync(readFileSync(file)))
const wanted = trace.endContent

const until = (what, condition) => waitUntil(what, condition, WAIT)

function open(server, doc) {
  return new WebsocketProvider(`ws://${server}/v1/spaces/default/docs`, encodeURIComponent(name), doc, {
    WebSocketPolyfill: WebSocket,
    disableBc: true,
  })
}

/** Positions are code points, and no trace has any beyond the first plane. */
function type(text, patches) {
  for (const [position, deleted, inserted] of patches) {
    if (deleted > 0) text.delete(position, deleted)
    if (inserted.length > 0) text.insert(position, inserted)
  }
}

/** For each agent its edits, each made on what the trace says that it had: as updates, with how much of the others' that is. */
function concurrentEdits() {
  const agents = Array.from({ length: trace.numAgents }, (_, agent) => {
    const doc = new Y.Doc()
    doc.clientID = agent + 1
    return { doc, text: doc.getText('t'), edits: [], has: new Array(trace.numAgents).fill(0) }
  })
  // What each edit has behind it, as how many edits of each agent.
  const seen = []
  for (const { agent, parents, patches } of trace.txns) {
    const me = agents[agent]
    const behind = new Array(trace.numAgents).fill(0)
    for (const parent of parents) seen[parent].forEach((n, other) => { behind[other] = Math.max(behind[other], n) })
    behind.forEach((n, other) => {
      for (; me.has[other] < n; me.has[other]++) {
        if (other !== agent) Y.applyUpdate(me.doc, agents[other].edits[me.has[other]].update)
      }
      if (me.has[other] !== n) throw new Error('an agent of the trace goes back to what it has left')
    })
    const needs = Y.decodeStateVector(Y.encodeStateVector(me.doc))
    let update = null
    const keep = (bytes) => { update = bytes }
    me.doc.on('update', keep)
    me.doc.transact(() => type(me.text, patches))
    me.doc.off('update', keep)
    me.edits.push({ needs, update: update ?? Y.encodeStateAsUpdate(new Y.Doc()) })
    me.has[agent]++
    seen.push(me.has.slice())
  }
  return agents.map((agent) => agent.edits)
}

const docs = servers.map(() => new Y.Doc())
const providers = servers.map((server, i) => open(server, docs[i]))
await until('an editor is synced', () => (providers.every((one) => one.synced) ? null : 'not yet'))

const start = performance.now()
const turn = () => new Promise((resolve) => setImmediate(resolve))
if (trace.kind === 'concurrent') {
  const edits = concurrentEdits()
  const next = edits.map(() => 0)
  const hasAll = (doc, needs) => [...needs].every(([client, clock]) => Y.getState(doc.store, client) >= clock)
  // Each agent types on as far as it has what its edits build on, and waits for the others' where it has not.
  await until('all edits are typed', async () => {
    for (let typed = true; typed;) {
      typed = false
      for (const [agent, all] of edits.entries()) {
        const doc = docs[agent % docs.length]
        const end = Math.min(all.length, next[agent] + TURN)
        while (next[agent] < end && hasAll(doc, all[next[agent]].needs)) {
          // An editor's own edit, for all that its provider can tell.
          Y.applyUpdate(doc, all[next[agent]++].update, 'typed')
          typed = true
        }
      }
      await turn()
    }
    return next.every((n, agent) => n === edits[agent].length) ? null : `at ${next}`
  })
} else {
  const text = docs[0].getText('t')
  if (trace.startContent) text.insert(0, trace.startContent)
  for (const [i, { patches }] of trace.txns.entries()) {
    docs[0].transact(() => type(text, patches))
    if (i % TURN === 0) await turn()
  }
}
const text = (doc) => doc.getText('t').toString()
await until('all editors have the text of the trace', () => {
  const bad = docs.findIndex((doc) => text(doc) !== wanted)
  return bad < 0 ? null : `the one at ${servers[bad]} has ${text(docs[bad]).length} characters of ${wanted.length}`
})
const seconds = (performance.now() - start) / 1000
await until('all servers have it', async () => {
  for (const server of servers) {
    const answer = await fetch(`http://${server}/v1/spaces/default/docs/${encodeURIComponent(name)}?format=text&root=t`)
    const body = await answer.text()
    if (body !== wanted) return `${server} answers ${answer.status} with ${body.length} characters of ${wanted.length}`
  }
  return null
})
providers.forEach((one) => one.destroy())
console.log(JSON.stringify({ edits: trace.txns.length, seconds }))
process.exit(0)

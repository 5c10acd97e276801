// Random documents, edited by unmodified clients of Yjs at several servers at once, who go offline and move, and then compared: every client with
// every other, and what Yjs makes of the document with what the servers' own decoder makes of it.
//
//   node fuzz.mjs SEED ROUNDS SERVER...
//
// A server is host:port. The same seed makes the same edits; how they meet on their way depends on the machine.

import { isDeepStrictEqual } from 'node:util'
import WebSocket from 'ws'
import { WebsocketProvider } from 'y-websocket'
import * as Y from 'yjs'

import { until as waitUntil } from './wait.mjs'

const WAIT = { patience: 30_000, pause: 20 }
const STEPS = 60
const EDITORS = 4
const WORDS = ['a', 'bc', 'é', 'x y', '😀', 'ß\n', '漢字', '👩‍👩‍👧']

const [seed, rounds, ...servers] = process.argv.slice(2)

/** A generator of numbers below 2^32 (xorshift). */
function generator(from) {
  let x = (Number(from) * 2654435761 + 88172645) >>> 0 || 1
  const next = () => {
    x ^= x << 13
    x >>>= 0
    x ^= x >>> 17
    x ^= x << 5
    x >>>= 0
    return x
  }
  return { below: (n) => next() % n, one: (of) => of[next() % of.length], chance: (p) => next() % 100 < p }
}

/** A place in a text that parts no pair of surrogates: Yjs' clients differ about those that are parted. */
function place(text, at) {
  const code = text.charCodeAt(at)
  return at > 0 && code >= 0xdc00 && code < 0xe000 ? at - 1 : at
}

function value(random) {
  return random.one([
    () => random.below(1000) - 500,
    () => random.below(1000) / 8,
    () => random.one(WORDS),
    () => random.chance(50),
    () => null,
    () => [1, random.one(WORDS)],
    () => ({ k: random.one(WORDS), n: null }),
  ])()
}

/** A value, or a shared type with something in it. */
function content(random, depth) {
  if (depth > 3 || random.chance(60)) return value(random)
  return random.one([
    () => new Y.Text(random.one(WORDS)),
    () => new Y.Map([[random.one(WORDS), content(random, depth + 1)]]),
    () => Y.Array.from([content(random, depth + 1)]),
  ])()
}

function editText(random, text) {
  const length = text.length
  const whole = text.toString()
  // With embedded things a text is longer than its characters: only its front is edited then.
  const at = place(whole, random.below(Math.min(length, whole.length) + 1))
  if (length > 0 && random.chance(35)) {
    const end = place(whole, Math.min(whole.length, at + 1 + random.below(4)))
    if (end > at && whole.length === length) text.delete(at, end - at)
  } else if (length > 2 && random.chance(15)) {
    const end = place(whole, Math.min(whole.length, at + 3))
    if (end > at && whole.length === length) text.format(at, end - at, { [random.one(['b', 'i'])]: random.one([true, null]) })
  } else if (whole.length === length) {
    text.insert(at, random.one(WORDS))
  }
}

function editMap(random, map) {
  const key = random.one(['k', 'l', 'é'])
  const there = map.get(key)
  if (there instanceof Y.AbstractType && random.chance(60)) return edit(random, there)
  if (random.chance(25)) map.delete(key)
  else map.set(key, content(random, 1))
}

function editArray(random, array) {
  const at = random.below(array.length + 1)
  const there = at < array.length ? array.get(at) : null
  if (there instanceof Y.AbstractType && random.chance(60)) return edit(random, there)
  if (at < array.length && random.chance(35)) array.delete(at, 1 + random.below(Math.min(2, array.length - at)))
  else array.insert(at, [content(random, 1)])
}

function editXml(random, xml) {
  const at = random.below(xml.length + 1)
  const there = at < xml.length ? xml.get(at) : null
  if (xml instanceof Y.XmlElement && random.chance(20)) {
    if (random.chance(70)) xml.setAttribute(random.one(['id', 'class']), random.one(['x', 'y z']))
    else xml.removeAttribute('id')
  } else if (there instanceof Y.XmlText && random.chance(60)) {
    there.insert(0, random.one(WORDS))
  } else if (there instanceof Y.XmlElement && random.chance(60)) {
    editXml(random, there)
  } else if (at < xml.length && random.chance(30)) {
    xml.delete(at, 1)
  } else {
    xml.insert(at, [random.chance(50) ? new Y.XmlElement(random.one(['p', 'h1'])) : new Y.XmlText(random.one(WORDS))])
  }
}

function edit(random, type) {
  if (type instanceof Y.Text) editText(random, type)
  else if (type instanceof Y.Map) editMap(random, type)
  else if (type instanceof Y.Array) editArray(random, type)
}

const ROOTS = {
  t: (doc) => doc.getText('t'),
  m: (doc) => doc.getMap('m'),
  a: (doc) => doc.getArray('a'),
  x: (doc) => doc.getXmlFragment('x'),
}

/** What Yjs makes of a document; what is empty is left out, since updates do not say of which type a root is. */
function shown(doc) {
  const all = {
    t: ROOTS.t(doc).toString(),
    m: ROOTS.m(doc).toJSON(),
    a: ROOTS.a(doc).toJSON(),
    x: ROOTS.x(doc).toString(),
  }
  return normal(all)
}

function normal(all) {
  const isEmpty = (value) => value === '' || (typeof value === 'object' && value !== null && Object.keys(value).length === 0)
  return Object.fromEntries(Object.entries(all).filter(([, value]) => !isEmpty(value)))
}

const until = (what, condition) => waitUntil(what, condition, WAIT)

async function round(number) {
  const random = generator(Number(seed) * 1000 + number)
  const name = `fuzz-${seed}-${number}`
  const open = (doc, server) => new WebsocketProvider(`ws://${server}/v1/spaces/default/docs`, name, doc, {
    WebSocketPolyfill: WebSocket,
    disableBc: true,
    maxBackoffTime: 200,
  })
  const editors = Array.from({ length: EDITORS }, (_, i) => {
    const doc = new Y.Doc()
    doc.clientID = 1 + i + random.below(2 ** 30)
    return { doc, provider: open(doc, servers[i % servers.length]) }
  })
  try {
    await until('editors are synced', () => (editors.every((one) => one.provider.synced) ? null : 'not yet'))
    for (let step = 0; step < STEPS; step++) {
      const editor = random.one(editors)
      const { doc } = editor
      // Somebody goes offline, comes back, or moves to any other server without waiting for what is under way.
      if (random.chance(4)) {
        if (editor.provider.shouldConnect) editor.provider.disconnect()
        else editor.provider.connect()
      } else if (random.chance(4)) {
        editor.provider.destroy()
        editor.provider = open(doc, random.one(servers))
      }
      doc.transact(() => {
        for (let n = 1 + random.below(3); n > 0; n--) {
          const root = random.one(['t', 'm', 'a', 'x'])
          if (root === 'x') editXml(random, ROOTS.x(doc))
          else edit(random, ROOTS[root](doc))
        }
      })
      if (random.chance(40)) await new Promise((resolve) => setImmediate(resolve))
    }
    editors.forEach(({ provider }) => provider.connect())
    await until('editors agree', () => {
      const all = editors.map(({ doc }) => ({ has: Y.decodeStateVector(Y.encodeStateVector(doc)), shows: shown(doc) }))
      return all.every((one) => isDeepStrictEqual(one, all[0])) ? null : JSON.stringify(all.map((one) => one.shows))
    })
    const wanted = shown(editors[0].doc)
    await until('servers show what Yjs shows', async () => {
      for (const server of servers) {
        const answer = await (await fetch(`http://${server}/v1/spaces/default/docs/${name}?format=json`)).json()
        const got = normal(answer.value ?? {})
        if (!isDeepStrictEqual(got, wanted)) return `${server}: ${JSON.stringify(got)} is not ${JSON.stringify(wanted)}`
      }
      return null
    })
  } finally {
    editors.forEach(({ provider }) => provider.destroy())
  }
}

for (let number = 0; number < Number(rounds); number++) {
  try {
    await round(number)
  } catch (error) {
    console.error(`seed ${seed}, round ${number}: ${error.message}`)
    process.exit(1)
  }
}
console.log(JSON.stringify({ rounds: Number(rounds) }))
process.exit(0)

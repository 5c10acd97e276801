// Editors for tests: unmodified clients of Yjs, told what to do line by line.
//
// A line of standard input is {"do": .., "editor": .., ...}; the answer is a line {"ok": ..} or {"error": ..}. Editors
// keep their document when they leave, as a browser does that is offline.

import readline from 'node:readline'
import { HocuspocusProvider, HocuspocusProviderWebsocket } from '@hocuspocus/provider'
import WebSocket from 'ws'
import { WebsocketProvider } from 'y-websocket'
import * as Y from 'yjs'

const editors = new Map()
const sockets = new Map()

const editor = (name) => {
  const found = editors.get(name)
  if (!found) throw new Error(`there is no editor ${name}`)
  return found
}

const text = (e) => e.doc.getText('t')

// What clients warn of, such as that an edit was refused.
const warnings = []
console.warn = (...what) => warnings.push(what.join(' '))

const actions = {
  // Opens a document at a server, with the document that the editor has already, if it has one.
  open: ({ editor: name, server, doc, params }) => {
    const e = editors.get(name) ?? { doc: new Y.Doc() }
    e.provider?.destroy()
    e.closed = null
    e.provider = new WebsocketProvider(server, doc, e.doc, {
      params: params ?? {},
      WebSocketPolyfill: WebSocket,
      disableBc: true,
      maxBackoffTime: 500,
    })
    e.provider.on('closed', (event) => { e.closed = event })
    editors.set(name, e)
  },
  // The same by Hocuspocus; editors who name the same socket share a connection.
  // Its token may take a while. With a session of its own it shares it with others of the same document.
  enter: ({ editor: name, server, doc, socket: shared, token, slow, session }) => {
    const e = editors.get(name) ?? { doc: new Y.Doc() }
    e.provider?.destroy()
    e.closed = null
    const key = `${shared} ${server}`
    const socket = sockets.get(key) ?? new HocuspocusProviderWebsocket({
      url: server,
      WebSocketPolyfill: WebSocket,
      minDelay: 100,
      delay: 100,
      maxDelay: 500,
    })
    sockets.set(key, socket)
    e.denied = null
    e.provider = new HocuspocusProvider({
      websocketProvider: socket,
      name: doc,
      document: e.doc,
      sessionAwareness: session ?? false,
      token: slow ? () => new Promise((resolve) => setTimeout(() => resolve('anything'), slow)) : token ?? 'anything',
      onAuthenticationFailed: ({ reason }) => { e.denied = reason },
    })
    e.provider.on('close', ({ event }) => { e.closed = { code: event.code, reason: event.reason } })
    e.provider.attach()
    editors.set(name, e)
  },
  // The connection of an editor of Hocuspocus breaks, and is made again.
  reconnect: async ({ editor: name }) => {
    const e = editor(name)
    const socket = e.provider.configuration.websocketProvider
    const closed = new Promise((resolve) => socket.on('close', resolve))
    socket.disconnect()
    await closed
    e.closed = null
    socket.connect()
  },
  // What a node answers to who asks without a WebSocket.
  get: async ({ url }) => {
    const answer = await fetch(url)
    return { status: answer.status, body: await answer.text() }
  },
  // Begins a document with an update from a node.
  begin: async ({ editor: name, url }) => {
    const doc = new Y.Doc()
    Y.applyUpdate(doc, new Uint8Array(await (await fetch(url)).arrayBuffer()))
    editors.set(name, { doc })
  },
  // What a connection is closed with on which something is sent that no client sends.
  raw: ({ server, doc, bytes, size, text: what }) => new Promise((resolve) => {
    const socket = new WebSocket(`${server}/${doc}`)
    socket.on('open', () => socket.send(what ?? (bytes ? Buffer.from(bytes) : Buffer.alloc(size))))
    socket.on('error', () => {})
    socket.on('close', (code) => resolve(code))
  }),
  // How many edits an editor has made of which it has not heard that they are kept.
  unsynced: ({ editor: name }) => editor(name).provider.unsyncedChanges,
  // What an editor of Hocuspocus was told when it asked to be let in.
  scope: ({ editor: name }) => ({ scope: editor(name).provider.authorizedScope ?? null, denied: editor(name).denied }),
  // Warnings of clients that have all of these words in them.
  warnings: ({ words }) => warnings.filter((warning) => words.every((word) => warning.includes(word))).length,
  leave: ({ editor: name }) => editor(name).provider.destroy(),
  synced: ({ editor: name }) => editor(name).provider.synced,
  closed: ({ editor: name }) => editor(name).closed,
  type: ({ editor: name, at, text: what }) => {
    const t = text(editor(name))
    t.insert(at ?? t.length, what)
  },
  erase: ({ editor: name, at, length }) => text(editor(name)).delete(at, length),
  text: ({ editor: name }) => text(editor(name)).toString(),
  set: ({ editor: name, key, value }) => editor(name).doc.getMap('m').set(key, value),
  paragraph: ({ editor: name, text: what }) => {
    const p = new Y.XmlElement('p')
    p.insert(0, [new Y.XmlText(what)])
    editor(name).doc.getXmlFragment('x').push([p])
  },
  // Puts a document into the document, with an identity of its own.
  nest: ({ editor: name, key }) => {
    const within = new Y.Doc()
    editor(name).doc.getMap('documents').set(key, within)
    return within.guid
  },
  // The identity of a document within the document.
  nested: ({ editor: name, key }) => editor(name).doc.getMap('documents').get(key)?.guid ?? null,
  // Opens a document that is within the one of another editor, as what it is: a document of its own.
  openWithin: ({ editor: name, of, key, server }) => {
    const within = editor(of).doc.getMap('documents').get(key)
    within.load()
    editors.set(name, { doc: within })
    actions.open({ editor: name, server, doc: within.guid })
    return within.guid
  },
  show: ({ editor: name }) => {
    const { doc } = editor(name)
    return { t: text({ doc }).toString(), m: doc.getMap('m').toJSON(), x: doc.getXmlFragment('x').toString() }
  },
  // What an editor says of itself, and whom it sees.
  present: ({ editor: name, user }) => {
    const { awareness } = editor(name).provider
    if (user) awareness.setLocalStateField('user', user)
    return [...awareness.getStates().values()].map((state) => state.user).filter(Boolean).sort()
  },
  // What somebody makes who types so many characters, one by one.
  typed: ({ count }) => {
    const doc = new Y.Doc()
    const updates = []
    doc.on('update', (update) => updates.push(Buffer.from(update).toString('base64')))
    for (let n = 0; n < count; n++) text({ doc }).insert(n, 'x')
    return updates
  },
  update: ({ editor: name }) => Buffer.from(Y.encodeStateAsUpdate(editor(name).doc)).toString('base64'),
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  let answer
  try {
    const request = JSON.parse(line)
    answer = { ok: (await actions[request.do](request)) ?? null }
  } catch (error) {
    answer = { error: String(error?.stack ?? error) }
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
process.exit(0)

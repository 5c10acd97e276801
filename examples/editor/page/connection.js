// An editor's connection to its datacenter: an unmodified provider, and what it does when its node goes away, which is to go
// on at the next node of the same datacenter. Its document stays with it; the provider brings what the next node lacks.

import { HocuspocusProvider, HocuspocusProviderWebsocket } from '@hocuspocus/provider'
import { WebsocketProvider } from 'y-websocket'

/** The longest pause before the next attempt: the next node is there already. */
const PAUSE_MS_MAX = 500

/** The space of all documents. */
const SPACE = '/v1/spaces/default'

/**
 * Connects `doc`, under `name`, to a node of those that `nodes()` tells at any time, by the provider that `protocol` names.
 * `changed` is called when anything of what it returns is different.
 */
export function connect({ protocol, doc, name, nodes, changed }) {
  const connection = { node: nodes()[0], protocol, connected: false, synced: false, unsaved: null, refused: null }
  const set = (what) => {
    Object.assign(connection, what)
    changed()
  }
  /** The one after the present node, rather one that runs. */
  const next = () => {
    const ring = nodes()
    const at = ring.findIndex((node) => node.name === connection.node.name)
    const others = [...ring.slice(at + 1), ...ring.slice(0, at + 1)]
    return others.find((node) => node.state !== 'dead') ?? others[0]
  }
  const begin = protocol === 'hocuspocus' ? hocuspocus : websocket
  connection.awareness = begin({ connection, doc, name, next, set })
  return connection
}

function websocket({ connection, doc, name, next, set }) {
  const url = (node) => `ws://${node.client}${SPACE}/docs`
  const provider = new WebsocketProvider(url(connection.node), encodeURIComponent(name), doc, {
    // Panes of one browser would else tell each other what only the datacenters should.
    disableBc: true,
    maxBackoffTime: PAUSE_MS_MAX,
  })
  provider.on('status', ({ status }) => set({ connected: status === 'connected' }))
  provider.on('sync', (synced) => set({ synced }))
  provider.on('connection-close', () => {
    const node = next()
    provider.serverUrl = url(node)
    set({ node })
  })
  provider.on('closed', ({ code, reason }) => set({ refused: `${code} ${reason}` }))
  return provider.awareness
}

function hocuspocus({ connection, doc, name, next, set }) {
  const url = (node) => `ws://${node.client}${SPACE}/hocuspocus`
  const socket = new HocuspocusProviderWebsocket({
    url: url(connection.node),
    delay: 100,
    minDelay: 100,
    maxDelay: PAUSE_MS_MAX,
  })
  const provider = new HocuspocusProvider({ websocketProvider: socket, name, document: doc, token: '' })
  socket.on('status', ({ status }) => set({ connected: status === 'connected' }))
  socket.on('close', () => {
    const node = next()
    socket.setConfiguration({ url: url(node) })
    set({ node, connected: false, synced: false })
  })
  provider.on('synced', ({ state }) => set({ synced: state }))
  provider.on('unsyncedChanges', ({ number }) => set({ unsaved: number }))
  provider.on('authenticationFailed', ({ reason }) => set({ refused: reason }))
  provider.attach()
  return provider.awareness
}

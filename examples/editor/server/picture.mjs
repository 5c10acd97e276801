// What the page draws, worked out of what the nodes say: a function of its arguments.

import { pairOf } from './cluster.mjs'

/** The picture of a cluster: datacenters with their nodes and leaders, and the links between them. */
export function picture({ dcs }, statuses, cuts) {
  const drawn = dcs.map((dc) => drawDc(dc, statuses))
  const links = []
  for (const [i, a] of drawn.entries()) {
    for (const b of drawn.slice(i + 1)) links.push(drawLink(a, b, cuts))
  }
  return { dcs: drawn.map(({ heard, ...dc }) => dc), links }
}

function drawDc(dc, statuses) {
  const nodes = dc.nodes.map((node) => {
    const name = `${dc.name}/${node.id}`
    const status = statuses[name]
    const state = node.pid === null ? 'dead' : status?.ready ? 'ready' : 'starting'
    return { name, id: node.id, client: node.client, state, leads: status?.role === 'leader' }
  })
  const heard = dc.nodes.map((node) => statuses[`${dc.name}/${node.id}`]).filter(Boolean)
  // Right after a failover two nodes may think that they lead; the higher term does.
  const leader = heard.filter((s) => s.role === 'leader').sort((a, b) => b.term - a.term)[0]
  for (const node of nodes) node.leads &&= node.id === leader.node
  const furthest = heard.sort((a, b) => b.applied_index - a.applied_index)[0]
  return {
    name: dc.name,
    nodes,
    leader: leader ? `${dc.name}/${leader.node}` : null,
    vector: furthest?.vector ?? null,
    digest: furthest?.digest ?? null,
    heard: Object.fromEntries((leader?.links ?? []).map((link) => [link.dc, link])),
  }
}

function drawLink(a, b, cuts) {
  const pair = pairOf(a.name, b.name)
  const ends = [a.heard[b.name], b.heard[a.name]].filter(Boolean)
  const state = cuts.has(pair) ? 'cut' : ends.some((end) => end.connected) ? 'up' : 'down'
  // For how long one of them may have been behind the other, by this link alone.
  const lag_ms = Math.max(0, ...ends.map((end) => end.lag_ms))
  return { a: a.name, b: b.name, state, lag_ms, waiting: [lacks(a, b), lacks(b, a)] }
}

/** How many txns that `from` has written are not applied at `to`, as far as both could be asked. */
function lacks(from, to) {
  const written = from.vector?.[from.name] ?? 0
  const applied = to.vector?.[from.name] ?? 0
  return to.vector ? Math.max(0, written - applied) : 0
}

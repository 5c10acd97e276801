// What the page draws and tells, from what nodes say.

import assert from 'node:assert/strict'
import test from 'node:test'
import { differences } from '../page/story.js'
import { picture } from '../server/picture.mjs'

const description = {
  dcs: ['eu', 'us'].map((name, dc) => ({
    name,
    nodes: [1, 2, 3].map((id) => ({ id, client: `127.0.0.1:${dc * 10 + id}`, pid: 100 + id })),
  })),
}

const says = (node, more = {}) => ({ node, ready: true, role: 'follower', term: 1, applied_index: 5, vector: {}, links: [], ...more })

const statuses = (more = {}) => ({
  'eu/1': says(1, { role: 'leader', vector: { eu: 7, us: 2 }, links: [{ dc: 'us', connected: true, lag_ms: 0 }] }),
  'eu/2': says(2),
  'eu/3': null,
  'us/1': says(1),
  'us/2': says(2, { role: 'leader', applied_index: 6, vector: { eu: 4, us: 2 }, links: [{ dc: 'eu', connected: true, lag_ms: 120 }] }),
  'us/3': says(3),
  ...more,
})

test('a picture has leaders, states of nodes, and what waits on each link', () => {
  const seen = picture(description, statuses(), new Set())
  assert.deepEqual(seen.dcs.map((dc) => dc.leader), ['eu/1', 'us/2'])
  assert.deepEqual(seen.dcs[0].nodes.map((node) => [node.state, node.leads]), [['ready', true], ['ready', false], ['starting', false]])
  assert.deepEqual(seen.links, [{ a: 'eu', b: 'us', state: 'up', lag_ms: 120, waiting: [3, 0] }])
})

test('of two nodes that think that they lead, the one of the later term does', () => {
  const both = statuses({ 'us/1': says(1, { role: 'leader', term: 2 }) })
  const { leader, nodes } = picture(description, both, new Set()).dcs[1]
  assert.equal(leader, 'us/1')
  assert.deepEqual(nodes.map((node) => node.leads), [true, false, false])
})

test('a link that was cut is told from one that has no connection, and each change is told once', () => {
  const apart = statuses()
  for (const name of ['eu/1', 'us/2']) apart[name] = { ...apart[name], links: [] }
  const states = [picture(description, statuses(), new Set()), picture(description, statuses(), new Set(['eu us'])),
    picture(description, apart, new Set()), picture(description, statuses(), new Set())]
  assert.deepEqual(states.map(({ links }) => links[0].state), ['up', 'cut', 'down', 'up'])
  const told = states.slice(1).map((state, i) => differences(states[i], state))
  assert.deepEqual(told, [['The link between eu and us is cut'], ['The link between eu and us is healed'], ['eu and us are connected again']])
})

test('the death of a leader and its successor are told', () => {
  const dead = structuredClone(description)
  dead.dcs[0].nodes[0].pid = null
  const without = statuses({ 'eu/1': null, 'eu/2': says(2, { role: 'leader', term: 2 }) })
  const told = differences(picture(description, statuses(), new Set()), picture(dead, without, new Set()))
  assert.deepEqual(told.slice(-2), ['eu/1 is dead; it was the leader', 'eu/2 leads eu'])
})

test('a cluster of which no node answers is drawn all the same', () => {
  const seen = picture(description, {}, new Set())
  assert.deepEqual(seen.dcs.map((dc) => [dc.leader, dc.vector]), [[null, null], [null, null]])
  assert.deepEqual(seen.links[0], { a: 'eu', b: 'us', state: 'down', lag_ms: 0, waiting: [0, 0] })
})

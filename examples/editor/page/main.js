// The page: asks how the cluster is, draws it, and opens a pane for each datacenter.

import { ClusterMap } from './map.js'
import { Pane } from './pane.js'
import { differences, tell } from './story.js'

/** How often the cluster is looked at. */
const LOOK_MS = 500
/** The first pane has a provider that hears of what is durable; the others show that the plainer one works alike. */
const PROTOCOLS = ['hocuspocus', 'y-websocket', 'y-websocket']

const part = (id) => document.getElementById(id)
const panes = []
let picture = null

async function look() {
  try {
    const answer = await fetch('/api/state')
    const next = await answer.json()
    if (!answer.ok) throw new Error(next.error)
    if (picture) tell(part('story'), differences(picture, next), new Date())
    picture = next
    if (panes.length === 0) open()
    map.show(picture, panes)
    problem('')
  } catch (error) {
    problem(`The cluster cannot be looked at: ${error.message}`)
  }
  setTimeout(look, LOOK_MS)
}

function open() {
  const name = new URLSearchParams(location.search).get('doc') || picture.document
  for (const [index, { name: dc }] of picture.dcs.entries()) {
    const nodes = () => picture.dcs[index].nodes
    panes.push(new Pane({ index, dc, protocol: PROTOCOLS[index % PROTOCOLS.length], name, nodes, changed }))
  }
}

let asked = false
/** Panes tell of every key; it is enough to look once for each frame that is drawn. */
function changed() {
  if (asked) return
  asked = true
  requestAnimationFrame(() => {
    asked = false
    map.show(picture, panes)
    agree()
  })
}

function agree() {
  const ready = panes.every((pane) => pane.ready)
  const equal = panes.every((pane) => pane.text === panes[0].text)
  const states = new Set(picture.links.map((link) => link.state))
  const [state, text] =
    equal && ready ? ['good', 'all panes are equal'] :
    equal ? ['wait', 'a pane is connecting'] :
    states.has('cut') ? ['bad', 'panes differ while a link is cut'] :
    states.has('down') ? ['bad', 'panes differ while a link is down'] :
    ['wait', 'edits are on their way']
  const badge = part('agreement')
  badge.dataset.state = state
  if (badge.lastChild.textContent !== text) badge.lastChild.textContent = text
  const typing = panes.some((pane) => pane.typing)
  part('all').textContent = typing ? 'Stop typing' : 'Let all three type'
}

async function act(action, names) {
  try {
    const answer = await fetch(`/api/${action}`, { method: 'POST', body: JSON.stringify(names) })
    if (!answer.ok) throw new Error((await answer.json()).error)
    problem('')
  } catch (error) {
    problem(error.message)
  }
}

function problem(text) {
  if (part('problem').textContent !== text) part('problem').textContent = text
}

const map = new ClusterMap(part('map'), act)

part('all').addEventListener('click', () => {
  const on = !panes.some((pane) => pane.typing)
  for (const pane of panes) pane.letType(on)
})

const root = document.documentElement
const prefers = matchMedia('(prefers-color-scheme: dark)')
const follow = () => { root.dataset.theme = prefers.matches ? 'dark' : 'light' }
prefers.addEventListener('change', follow)
follow()
part('theme').addEventListener('click', () => { root.dataset.theme = root.dataset.theme === 'dark' ? 'light' : 'dark' })

look()

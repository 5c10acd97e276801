// The map above the editors: each datacenter with its nodes over its pane, and the links between them.

import { element, shape } from './element.js'

/** How far the links that pass over a datacenter rise above it, in pixels. */
const ARCH_PX = 40
/** How long a link shows that something came over it. */
const BUSY_MS = 700
/** From which lag on a link shows it; less is the usual coming and going. */
const LAG_MS_SHOWN = 1000

export class ClusterMap {
  #root
  #wires
  #dcs = {}
  #links = {}
  #act
  #vectors = {}

  /** `act(action, names)` breaks or mends; it may fail. */
  constructor(root, act) {
    this.#root = root
    this.#wires = root.querySelector('.wires')
    this.#act = act
    new ResizeObserver(() => this.#place()).observe(root)
  }

  /** Shows the picture, and to which nodes the panes are connected. */
  show(picture, panes) {
    for (const [index, dc] of picture.dcs.entries()) this.#showDc(dc, index, panes.find((pane) => pane.dc === dc.name))
    this.#showVectors(picture)
    for (const link of picture.links) this.#showLink(link, picture.latency)
    for (const dc of picture.dcs) this.#showTraffic(dc)
    this.#place()
  }

  #showDc(dc, index, pane) {
    const parts = this.#dcs[dc.name] ??= this.#makeDc(dc, index)
    parts.leads.textContent = dc.leader ? `node ${dc.leader.split('/')[1]} leads` : 'no leader'
    parts.leads.dataset.state = dc.leader ? 'good' : 'bad'
    for (const node of dc.nodes) {
      const { button, role } = parts.nodes[node.name]
      const dead = node.state === 'dead'
      button.dataset.state = node.state
      button.classList.toggle('leads', node.leads)
      button.classList.toggle('used', pane?.connection.node.name === node.name && pane.connection.connected)
      role.textContent = dead ? 'dead' : node.state === 'starting' ? 'starting' : node.leads ? 'leader' : 'follower'
      const does = dead ? 'Restart' : 'Kill'
      button.setAttribute('aria-label', `${does} ${node.name}, ${role.textContent}`)
      button.title = dead ? `meridian dev restart ${node.name}` : `meridian dev kill ${node.name} (kill -9)`
    }
    parts.pane = pane
  }

  /** What is applied in each datacenter of each; while a link is broken, what is missing is marked. */
  #showVectors({ dcs, links }) {
    const broken = links.some((link) => link.state !== 'up')
    for (const dc of dcs) {
      const entries = dcs.map(({ name: origin, vector }) => {
        const seq = dc.vector?.[origin] ?? 0
        const behind = broken && dc.vector && seq < (vector?.[origin] ?? 0)
        return element('span', { class: behind ? 'behind' : '', text: `${origin} ${seq}` })
      })
      this.#dcs[dc.name].vector.replaceChildren(...entries)
    }
  }

  #makeDc(dc, index) {
    const nodes = {}
    for (const node of dc.nodes) {
      const role = element('small')
      const button = element('button', { type: 'button', class: 'node', 'data-node': node.name }, [
        element('span', { text: String(node.id) }), role,
      ])
      button.addEventListener('click', () => this.#press(button, button.dataset.state === 'dead' ? 'restart' : 'kill', { node: node.name }))
      nodes[node.name] = { button, role }
    }
    const leads = element('span', { class: 'leads-now' })
    const vector = element('p', { class: 'vector', title: 'The vector: how many txns of each datacenter are applied here' })
    const card = element('div', { class: `dc person-${'abc'[index % 3]}`, 'data-dc': dc.name }, [
      element('h2', { text: dc.name }), leads,
      element('div', { class: 'nodes' }, Object.values(nodes).map(({ button }) => button)),
      vector,
    ])
    this.#root.append(card)
    const tether = shape('path', { class: `tether person-${'abc'[index % 3]}` })
    this.#wires.append(tether)
    return { card, nodes, leads, vector, tether }
  }

  #showLink(link, latency) {
    const parts = this.#links[`${link.a} ${link.b}`] ??= this.#makeLink(link)
    const [there, back] = link.waiting
    const waits = there + back > 0 && link.state !== 'up'
    parts.button.dataset.state = link.state
    parts.wire.dataset.state = link.state
    const usual = link.state === 'up' ? latency ? `${latency.replace(/^[\d.]+/, '$& ')} one way` : 'up' : link.state
    parts.text.textContent = link.lag_ms < LAG_MS_SHOWN ? usual : `${link.state === 'up' ? 'behind' : link.state} ${Math.floor(link.lag_ms / 1000)} s`
    parts.waiting.textContent = waits ? `${there} → ← ${back}` : ''
    const behind = `${there} txns of ${link.a} and ${back} of ${link.b} wait to get across; up to ${link.lag_ms} ms behind`
    const does = link.state === 'up' ? 'Cut' : 'Heal'
    parts.button.setAttribute('aria-label', `${does} the link between ${link.a} and ${link.b}, ${link.state}`)
    parts.button.title = `meridian dev ${does.toLowerCase()} ${link.a} ${link.b}\n${behind}`
  }

  #makeLink({ a, b }) {
    const text = element('span')
    const waiting = element('small')
    const button = element('button', { type: 'button', class: 'link', 'data-link': `${a} ${b}` }, [element('i'), text, waiting])
    button.addEventListener('click', () => this.#press(button, button.dataset.state === 'up' ? 'cut' : 'heal', { a, b }))
    const wire = shape('path', { class: 'wire' })
    this.#wires.prepend(wire)
    this.#root.append(button)
    return { a, b, wire, button, text, waiting }
  }

  async #press(button, action, names) {
    button.disabled = true
    await this.#act(action, names)
    button.disabled = false
  }

  /** A link over which txns came since the last picture is shown to be busy for a moment. */
  #showTraffic(dc) {
    const before = this.#vectors[dc.name]
    this.#vectors[dc.name] = dc.vector ?? before
    for (const [origin, seq] of Object.entries(dc.vector ?? {})) {
      if (!before || origin === dc.name || seq === before[origin]) continue
      const link = this.#links[`${dc.name} ${origin}`] ?? this.#links[`${origin} ${dc.name}`]
      if (link?.button.dataset.state !== 'up') continue
      link.wire.classList.add('busy')
      clearTimeout(link.timer)
      link.timer = setTimeout(() => link.wire.classList.remove('busy'), BUSY_MS)
    }
  }

  /** Draws the lines where the boxes are now. */
  #place() {
    const origin = this.#root.getBoundingClientRect()
    const box = (part) => {
      const { left, right, top, bottom } = part.getBoundingClientRect()
      return { left: left - origin.left, right: right - origin.left, top: top - origin.top, bottom: bottom - origin.top }
    }
    const names = Object.keys(this.#dcs)
    for (const { a, b, wire, button } of Object.values(this.#links)) {
      const [from, to] = [box(this.#dcs[a].card), box(this.#dcs[b].card)]
      const near = names.indexOf(b) - names.indexOf(a) === 1
      const { path, x, y } = near ? straight(from, to) : arch(from, to)
      wire.setAttribute('d', path)
      button.style.left = `${x}px`
      button.style.top = `${y}px`
    }
    for (const { nodes, tether, pane } of Object.values(this.#dcs)) {
      const node = pane?.connection.connected && nodes[pane.connection.node.name]
      const at = node && box(node.button)
      tether.setAttribute('d', at ? `M${(at.left + at.right) / 2} ${at.bottom} V${origin.height}` : '')
    }
  }
}

function straight(from, to) {
  const y = (from.top + from.bottom) / 2
  return { path: `M${from.right} ${y} H${to.left}`, x: (from.right + to.left) / 2, y }
}

function arch(from, to) {
  const [left, right] = [(from.left + from.right) / 2, (to.left + to.right) / 2]
  const y = from.top - ARCH_PX
  const r = 18
  const path = `M${left} ${from.top} V${y + r} Q${left} ${y} ${left + r} ${y} H${right - r} Q${right} ${y} ${right} ${y + r} V${to.top}`
  return { path, x: (left + right) / 2, y }
}

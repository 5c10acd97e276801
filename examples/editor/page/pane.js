// One pane: an editor with a document of its own, connected to one datacenter.

import { defaultKeymap } from '@codemirror/commands'
import { markdown } from '@codemirror/lang-markdown'
import { HighlightStyle, syntaxHighlighting } from '@codemirror/language'
import { EditorState } from '@codemirror/state'
import { EditorView, keymap, placeholder } from '@codemirror/view'
import { tags } from '@lezer/highlight'
import { yCollab, yUndoManagerKeymap } from 'y-codemirror.next'
import * as Y from 'yjs'
import { connect } from './connection.js'
import { element } from './element.js'
import { pause, person, sentence } from './people.js'

/** The root type of the document that holds the text. */
const ROOT = 'text'
const COLOURS = ['a', 'b', 'c']

const STYLE = HighlightStyle.define([
  { tag: tags.heading1, class: 'md-h1' },
  { tag: tags.heading2, class: 'md-h2' },
  { tag: [tags.heading3, tags.heading4], class: 'md-h3' },
  { tag: tags.strong, class: 'md-strong' },
  { tag: tags.emphasis, class: 'md-em' },
  { tag: tags.monospace, class: 'md-code' },
  { tag: [tags.processingInstruction, tags.contentSeparator], class: 'md-mark' },
])

export class Pane {
  #text
  #view
  #parts
  #typing = null
  #turn = 0

  /** `protocol` is the provider to use; `nodes()` are the nodes of the datacenter now; `changed(pane)` is called often. */
  constructor({ index, dc, protocol, name, nodes, changed }) {
    this.dc = dc
    this.index = index
    const doc = new Y.Doc()
    this.#text = doc.getText(ROOT)
    this.nodes = nodes
    this.connection = connect({ protocol, doc, name, nodes, changed: () => this.#show?.() })
    const { awareness } = this.connection
    const hue = COLOURS[index % COLOURS.length]
    this.user = { name: person(index, doc.clientID), color: `var(--person-${hue})`, colorLight: `var(--person-${hue}-light)` }
    awareness.setLocalStateField('user', this.user)
    this.#build(hue)
    const undo = new Y.UndoManager(this.#text)
    this.#view = new EditorView({
      parent: this.#parts.body,
      state: EditorState.create({
        extensions: [
          keymap.of([...yUndoManagerKeymap, ...defaultKeymap]),
          markdown(),
          syntaxHighlighting(STYLE),
          EditorView.lineWrapping,
          EditorView.contentAttributes.of({ 'aria-label': `The document at ${dc}`, spellcheck: 'false' }),
          placeholder('Type here …'),
          yCollab(this.#text, awareness, { undoManager: undo }),
        ],
      }),
    })
    this.#show = () => {
      this.#showConnection()
      changed(this)
    }
    this.#text.observe(() => changed(this))
    awareness.on('change', () => this.#showPresence())
    this.#show()
    this.#showPresence()
  }

  #show

  /** What the document says here. */
  get text() {
    return this.#text.toString()
  }

  /** Whether the editor has what its node had when it came. */
  get ready() {
    return this.connection.connected && this.connection.synced
  }

  #build(hue) {
    const parts = {
      face: element('span', { class: 'face', text: this.user.name[0] }),
      who: element('b', { text: this.user.name }),
      where: element('span', { class: 'where' }),
      presence: element('ul', { class: 'presence', 'aria-label': `Who is there at ${this.dc}` }),
      type: element('button', { type: 'button', class: 'plain type', text: 'Type' }),
      body: element('div', { class: 'body' }),
      saved: element('span', { class: 'saved', role: 'status' }),
      by: element('span', { class: 'by', text: this.connection.protocol === 'hocuspocus' ? 'Hocuspocus' : 'y-websocket' }),
    }
    parts.type.addEventListener('click', () => this.letType(this.#typing === null))
    const name = element('div', { class: 'name' }, [parts.who, parts.where])
    this.element = element('article', { class: `pane person-${hue}`, 'data-dc': this.dc, 'aria-label': this.dc }, [
      element('header', {}, [parts.face, name, parts.presence, parts.type]),
      parts.body,
      element('footer', {}, [parts.saved, parts.by]),
    ])
    this.#parts = parts
    document.getElementById('panes').append(this.element)
  }

  #showConnection() {
    const { node, connected, synced, unsaved, refused } = this.connection
    const { where, saved } = this.#parts
    where.textContent = `at ${node.name}`
    const all = this.nodes().length
    const majority = Math.floor(all / 2) + 1
    const [state, text, why] =
      refused ? ['bad', `refused: ${refused}`, 'The provider does not come back after this.'] :
      !connected ? ['wait', `connecting to ${node.name}`, 'What is typed meanwhile stays in this pane, and is brought along.'] :
      !synced ? ['wait', `comparing with ${node.name}`, ''] :
      unsaved === null ? ['good', `in step with ${node.name}`, 'y-websocket has no acknowledgement: that an edit is kept shows when others see it.'] :
      unsaved > 0 ? ['wait', `saving ${unsaved} ${unsaved === 1 ? 'edit' : 'edits'}`, 'Not acknowledged yet.'] :
      ['good', `saved in ${this.dc}: on ${majority} of ${all} disks`, 'Hocuspocus’ acknowledgement is sent when a majority of the datacenter has the edit on disk.']
    if (saved.textContent !== text) saved.textContent = text
    saved.dataset.state = state
    saved.title = why
  }

  #showPresence() {
    const { awareness } = this.connection
    const others = [...awareness.getStates()].filter(([client, { user }]) => client !== awareness.clientID && user)
    this.#parts.presence.replaceChildren(...others.map(([, { user }]) => {
      const face = element('li', { class: 'face', text: String(user.name)[0], title: `${user.name} is here too` })
      face.style.setProperty('--face', String(user.color))
      return face
    }))
  }

  /** Begins to type a paragraph by itself at the end of the text, or stops in the middle. */
  letType(on) {
    if (on === (this.#typing !== null)) return
    const { type } = this.#parts
    type.textContent = on ? 'Stop' : 'Type'
    type.setAttribute('aria-pressed', String(on))
    if (!on) {
      clearTimeout(this.#typing.timer)
      this.#typing = null
      return this.#show()
    }
    const apart = this.text === '' || this.text.endsWith('\n\n') ? '' : '\n\n'
    const end = this.#text.length
    this.#view.dispatch({ changes: { from: end, insert: `${apart}\n\n` }, userEvent: 'input.type' })
    // Each key goes before this paragraph's own line break, wherever others have moved that meanwhile.
    const caret = Y.createRelativePositionFromTypeIndex(this.#text, end + apart.length)
    this.#typing = { left: [...sentence(this.index, this.#turn)], caret, timer: null }
    this.#turn += 1
    this.connection.awareness.setLocalStateField('cursor', { anchor: caret, head: caret })
    this.#typeNext()
  }

  get typing() {
    return this.#typing !== null
  }

  #typeNext() {
    const typing = this.#typing
    const key = typing.left.shift()
    if (key === undefined) return this.letType(false)
    const at = Y.createAbsolutePositionFromRelativePosition(typing.caret, this.#text.doc)?.index ?? this.#text.length
    this.#view.dispatch({ changes: { from: at, insert: key }, userEvent: 'input.type' })
    this.#view.dispatch({ effects: EditorView.scrollIntoView(at + key.length, { y: 'nearest', yMargin: 24 }) })
    typing.timer = setTimeout(() => this.#typeNext(), pause())
  }
}

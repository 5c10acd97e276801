// The bytes of y-websocket and of Hocuspocus, as far as a load needs them, and connections that speak either.
//
// Updates are made before the clock starts, and what arrives is counted and not decoded, so that the load costs as
// little of the machine as it can.

import WebSocket from 'ws'

export function varUint(n) {
  const bytes = []
  for (; n > 127; n = Math.floor(n / 128)) bytes.push((n % 128) | 128)
  bytes.push(n)
  return Buffer.from(bytes)
}

/** Reads a number; returns it and where what follows begins. */
export function readVarUint(buffer, at) {
  let n = 0
  for (let scale = 1; ; scale *= 128) {
    const byte = buffer[at++]
    n += (byte & 127) * scale
    if (byte < 128) return [n, at]
  }
}

const varBytes = (bytes) => Buffer.concat([varUint(bytes.length), bytes])
const varString = (text) => varBytes(Buffer.from(text))

const SYNC = 0
const AUTH = 2
const SYNC_REPLY = 4
const SYNC_STATUS = 8
const STEP_1 = 0
const STEP_2 = 1
const UPDATE = 2
const EMPTY_VECTOR = Buffer.from([0])
const EMPTY_UPDATE = Buffer.from([0, 0])

/** What an editor sends who opens a document and has nothing: the frames, without what is around them. */
export function opening(name = null) {
  const prefix = name === null ? Buffer.alloc(0) : varString(name)
  const frame = (type, body) => Buffer.concat([prefix, varUint(type), body])
  const hello = name === null ? [] : [frame(AUTH, Buffer.concat([varUint(0), varString('')]))]
  return [...hello, frame(SYNC, Buffer.concat([varUint(STEP_1), varBytes(EMPTY_VECTOR)]))]
}

/** One document on one socket. Calls `on.update`, `on.synced` and, where the server has one, `on.saved`. */
export class Editor {
  constructor(url, { name = null, on = {} } = {}) {
    this.prefix = name === null ? Buffer.alloc(0) : varString(name)
    this.on = on
    this.bytes = 0
    this.socket = new WebSocket(url, { perMessageDeflate: false })
    this.socket.binaryType = 'nodebuffer'
    this.closed = new Promise((resolve) => this.socket.on('close', (code, reason) => resolve(`${code} ${reason}`)))
    this.opened = new Promise((resolve, reject) => {
      this.socket.on('open', resolve)
      this.socket.on('error', reject)
    })
    this.synced = new Promise((resolve) => { this.resolveSynced = resolve })
    this.socket.on('message', (message) => this.#take(message))
  }

  /** Opens the socket and takes what the server has of the document. */
  async join(vector = EMPTY_VECTOR) {
    await this.opened
    if (this.prefix.length > 0) this.#send(AUTH, Buffer.concat([varUint(0), varString('')]))
    this.#send(SYNC, Buffer.concat([varUint(STEP_1), varBytes(vector)]))
    const end = await Promise.race([this.synced, this.closed])
    if (end !== undefined) throw new Error(`closed with ${end}`)
    return this
  }

  update(update) {
    this.#send(SYNC, Buffer.concat([varUint(UPDATE), varBytes(update)]))
  }

  close() {
    this.socket.close()
    return this.closed
  }

  #send(type, body) {
    this.socket.send(Buffer.concat([this.prefix, varUint(type), body]))
  }

  #take(message) {
    this.bytes += message.length
    const [type, body] = readVarUint(message, this.prefix.length)
    if (type === SYNC_STATUS) {
      this.on.saved?.(message[body])
    } else if (type === SYNC || type === SYNC_REPLY) {
      this.#sync(message, body)
    }
  }

  #sync(message, body) {
    const [kind, payload] = readVarUint(message, body)
    if (kind === STEP_1) {
      // What this editor has was sent already.
      this.#send(SYNC, Buffer.concat([varUint(STEP_2), varBytes(EMPTY_UPDATE)]))
    } else if (kind === STEP_2) {
      this.resolveSynced()
    } else {
      this.on.update?.(message, payload)
    }
  }
}

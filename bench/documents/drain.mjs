// Editors who only take: bytes of a WebSocket that are counted and thrown away, so that a hundred and more can take a
// large document at once without this program holding it as often.

import { connect } from 'node:net'
import { randomBytes } from 'node:crypto'

const MASK = Buffer.alloc(4)
const HEAD_END = '\r\n\r\n'

/** A frame of a client. The mask is zero, so that the bytes stand as they are. */
function frame(payload) {
  if (payload.length > 125) throw new Error('only short frames are sent here')
  return Buffer.concat([Buffer.from([0x82, 0x80 | payload.length]), MASK, payload])
}

/** Opens `url` (ws://), sends `frames`, and takes bytes. */
export class Drain {
  constructor(url, frames) {
    const { hostname, port, pathname } = new URL(url)
    this.bytes = 0
    this.head = ''
    this.goals = []
    this.socket = connect(Number(port), hostname)
    this.socket.on('error', (error) => this.goals.forEach(({ reject }) => reject(error)))
    this.socket.on('data', (data) => this.#take(data))
    this.opened = new Promise((resolve, reject) => { this.resolveOpened = resolve; this.rejectOpened = reject })
    this.frames = frames
    this.socket.write([
      `GET ${pathname} HTTP/1.1`, `Host: ${hostname}:${port}`, 'Connection: Upgrade', 'Upgrade: websocket',
      'Sec-WebSocket-Version: 13', `Sec-WebSocket-Key: ${randomBytes(16).toString('base64')}`,
    ].join('\r\n') + HEAD_END)
  }

  /** Asks for the document. */
  ask() {
    this.frames.forEach((bytes) => this.socket.write(frame(bytes)))
  }

  /** Resolves once so many bytes have come. */
  has(bytes) {
    return new Promise((resolve, reject) => {
      this.goals.push({ bytes, resolve, reject })
      this.#look()
    })
  }

  close() {
    this.socket.destroy()
  }

  #take(data) {
    if (this.head !== null) {
      this.head += data.toString('latin1')
      const end = this.head.indexOf(HEAD_END)
      if (end < 0) return
      if (!this.head.startsWith('HTTP/1.1 101')) return this.rejectOpened(new Error(this.head.slice(0, 100)))
      this.bytes += this.head.length - end - HEAD_END.length
      this.head = null
      this.resolveOpened()
    } else {
      this.bytes += data.length
    }
    this.#look()
  }

  #look() {
    for (const goal of this.goals.filter(({ bytes }) => this.bytes >= bytes)) goal.resolve()
    this.goals = this.goals.filter(({ bytes }) => this.bytes < bytes)
  }
}

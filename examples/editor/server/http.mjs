// The page and a small interface for it, on loopback only: how the cluster is, and four ways to break and mend it.

import http from 'node:http'
import { picture } from './picture.mjs'

/** The longest request body. */
const BODY_BYTES_MAX = 4096
/** Pages that ask within this time share one look at the cluster. */
const FRESH_MS = 250
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  // CodeMirror makes its style sheets itself.
  "style-src 'self' 'unsafe-inline'",
  'img-src data:',
  "connect-src 'self' ws://127.0.0.1:*",
  "frame-ancestors 'none'",
].join('; ')

/** Serves until `stop` is called; port 0 is any. */
export async function listen(port, { cluster, page, latency, document }) {
  const look = looker(cluster)
  const server = http.createServer((request, response) => {
    answer(request).catch((error) => json(error.status ?? 500, { error: error.message })).then(({ status, headers, content }) => {
      response.writeHead(status, { 'cache-control': 'no-store', ...headers })
      response.end(content)
    })
  })
  const answer = async (request) => {
    const own = `127.0.0.1:${server.address().port}`
    const { pathname } = new URL(request.url, `http://${own}`)
    // Another name that leads here, or another page that asks: neither may break anything.
    if (request.headers.host !== own) throw refusal(403, `open http://${own}`)
    if (request.method === 'GET') {
      const file = page.get(pathname)
      if (file) return { status: 200, headers: { 'content-type': file.type, 'content-security-policy': POLICY }, content: file.content }
      if (pathname === '/api/state') return json(200, { latency, document, ...await look() })
    } else if (request.method === 'POST' && pathname.startsWith('/api/')) {
      if (request.headers.origin !== `http://${own}`) throw refusal(403, 'only the page may ask this')
      await act(cluster, pathname.slice('/api/'.length), await body(request))
      return json(200, { done: true })
    }
    throw refusal(404, 'there is nothing here')
  }
  await new Promise((resolve, reject) => {
    server.once('error', (error) => reject(error.code === 'EADDRINUSE'
      ? new Error(`port ${port} is taken; choose another with --port`)
      : error))
    server.listen(port, '127.0.0.1', resolve)
  })
  const stop = () => new Promise((resolve) => {
    server.close(resolve)
    server.closeAllConnections()
  })
  return { url: `http://127.0.0.1:${server.address().port}/`, stop }
}

function looker(cluster) {
  let looked = null
  return () => {
    if (!looked || Date.now() - looked.at > FRESH_MS) looked = { at: Date.now(), picture: lookAt(cluster) }
    return looked.picture
  }
}

async function lookAt(cluster) {
  const description = await cluster.description()
  return picture(description, await cluster.statuses(description), cluster.cuts())
}

/** What may be asked, and the names that it takes. */
const ACTIONS = { cut: ['a', 'b'], heal: ['a', 'b'], kill: ['node'], restart: ['node'] }

async function act(cluster, action, names) {
  if (!Object.hasOwn(ACTIONS, action)) throw refusal(404, `${action} is nothing that can be asked`)
  const words = ACTIONS[action].map((key) => names[key])
  // They become words of a command line; a name never begins with a dash.
  if (!words.every((word) => typeof word === 'string' && /^[a-z0-9][a-z0-9/-]*$/.test(word))) {
    throw refusal(400, `${action} takes ${ACTIONS[action].join(' and ')}`)
  }
  await cluster[action](...words)
}

async function body(request) {
  const chunks = []
  let bytes = 0
  for await (const chunk of request) {
    bytes += chunk.length
    if (bytes > BODY_BYTES_MAX) throw refusal(413, 'the body is too long')
    chunks.push(chunk)
  }
  try {
    return Object(JSON.parse(Buffer.concat(chunks).toString('utf8')))
  } catch {
    throw refusal(400, 'the body is no JSON')
  }
}

function refusal(status, message) {
  return Object.assign(new Error(message), { status })
}

function json(status, value) {
  return { status, headers: { 'content-type': 'application/json' }, content: JSON.stringify(value) }
}

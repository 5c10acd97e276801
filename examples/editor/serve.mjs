// Serves a page on which one document is edited in three datacenters at once: `npm start`, or `node serve.mjs --help`.

import { parseArgs } from 'node:util'
import { Cluster, findProgram } from './server/cluster.mjs'
import { bundle } from './server/bundle.mjs'
import { listen } from './server/http.mjs'
import { WELCOME, seed } from './server/welcome.mjs'

const HELP = `One document, edited in three datacenters at once.

  node serve.mjs [--port N] [--data FOLDER] [--wan-latency 80ms]   starts a cluster; without --data a temporary one
  node serve.mjs [--port N] --join FOLDER                          uses the one that "meridian dev" runs in that folder

The program is that of the variable MERIDIAN, or target/release/meridian, which is built if it is missing.`

const say = (text) => process.stdout.write(`${text}\n`)

function read() {
  const options = {
    port: { type: 'string', default: '7300' },
    data: { type: 'string' },
    join: { type: 'string' },
    'wan-latency': { type: 'string', default: '80ms' },
    help: { type: 'boolean', short: 'h' },
  }
  try {
    const { values } = parseArgs({ options })
    const port = Number(values.port)
    if (!Number.isInteger(port) || port < 0 || port > 65535) throw new Error(`${values.port} is no port`)
    if (values.data !== undefined && values.join !== undefined) throw new Error('--data starts a cluster, --join uses one: not both')
    return { ...values, port }
  } catch (error) {
    process.stderr.write(`error: ${error.message}\n\n${HELP}\n`)
    process.exit(2)
  }
}

/** Until `ending` is aborted: a cluster, the page, and the end of both. */
async function run(args, ending) {
  const ended = new Promise((resolve) => ending.signal.addEventListener('abort', resolve, { once: true }))
  const program = await findProgram(say)
  const page = await bundle()
  const latency = args.join === undefined ? args['wan-latency'] : null
  const cluster = args.join === undefined ? await start(program, args, ending) : await Cluster.join(program, args.join)
  try {
    await seed(await cluster.description())
    const server = await listen(args.port, { cluster, page, latency, document: WELCOME })
    say(`open ${server.url} in a browser; Ctrl-C ends it`)
    await ended
    say('stopping')
    await server.stop()
  } finally {
    await cluster.stop()
  }
  // What ended it, if that was not a signal.
  if (ending.signal.reason instanceof Ended) throw ending.signal.reason
}

/** The cluster has ended by itself. */
class Ended extends Error {}

function start(program, args, ending) {
  say('starting three datacenters of three nodes')
  return Cluster.start(program, {
    folder: args.data,
    latency: args['wan-latency'],
    signal: ending.signal,
    // A terminal's Ctrl-C reaches `dev` too, which then ends with 0, and may be faster; the first reason is the one that counts.
    ended: (code) => ending.abort(code === 0 ? undefined : new Ended(`meridian dev ended with ${code}`)),
  })
}

async function main() {
  const args = read()
  if (args.help) return say(HELP)
  const ending = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => ending.abort())
  await run(args, ending).catch((error) => {
    // Whatever breaks off because it is to end is its end.
    if (!ending.signal.aborted || ending.signal.reason instanceof Ended) throw error
  })
}

main().catch((error) => {
  process.stderr.write(`error: ${error.message}\n`)
  process.exitCode = 1
})

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

async function main() {
  const args = read()
  if (args.help) return say(HELP)
  const ending = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => ending.abort())
  const aborted = new Promise((resolve) => ending.signal.addEventListener('abort', resolve, { once: true }))
  const program = await findProgram(say)
  const page = await bundle()
  let failure = null
  const ended = (code) => {
    failure = new Error(`meridian dev ended with ${code}`)
    ending.abort()
  }
  let cluster
  if (args.join === undefined) {
    say('starting three datacenters of three nodes')
    const options = { folder: args.data, latency: args['wan-latency'], signal: ending.signal, ended }
    cluster = await Cluster.start(program, options).catch((error) => {
      if (ending.signal.aborted && !failure) return null
      throw error
    })
    if (!cluster) return
  } else {
    cluster = await Cluster.join(program, args.join)
  }
  try {
    await seed(await cluster.description())
    const latency = args.join === undefined ? args['wan-latency'] : null
    const server = await listen(args.port, { cluster, page, latency, document: WELCOME })
    say(`open ${server.url} in a browser; Ctrl-C ends it`)
    await aborted
    say('stopping')
    await server.stop()
  } finally {
    await cluster.stop()
  }
  if (failure) throw failure
}

main().catch((error) => {
  process.stderr.write(`error: ${error.message}\n`)
  process.exitCode = 1
})

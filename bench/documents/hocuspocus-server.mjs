// @hocuspocus/server with nothing configured, without persistence.
import { Server } from '@hocuspocus/server'

const server = new Server({ address: process.env.HOST, port: Number(process.env.PORT), quiet: true })
await server.listen()
console.log('listening')

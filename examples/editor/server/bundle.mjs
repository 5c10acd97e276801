// The page as a browser wants it: one script of all that it imports, kept in memory.

import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const PAGE = fileURLToPath(new URL('../page', import.meta.url))

/** The files of the page by their paths, each with its type and content. */
export async function bundle() {
  const built = await build({
    entryPoints: [path.join(PAGE, 'main.js')],
    bundle: true,
    write: false,
    format: 'esm',
    target: 'es2022',
    minify: true,
    legalComments: 'none',
    logLevel: 'warning',
  })
  const file = (name) => readFile(path.join(PAGE, name))
  return new Map([
    ['/', { type: 'text/html; charset=utf-8', content: await file('index.html') }],
    ['/style.css', { type: 'text/css; charset=utf-8', content: await file('style.css') }],
    ['/main.js', { type: 'text/javascript; charset=utf-8', content: built.outputFiles[0].contents }],
  ])
}

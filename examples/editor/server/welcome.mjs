// The document that the page opens with. It is written once, in one datacenter, before any editor is there: two editors that
// each began it would have it twice.

import * as Y from 'yjs'

/** The document's key. */
export const WELCOME = 'welcome'

const TEXT = `# One text, three datacenters

Each pane is an editor at another one, and each may write **at any time**.

1. Let all three type.
2. Cut a link, or two, and type on.
3. Heal them: the panes become equal.
4. Kill a leader while somebody types.

`

/** Writes it, unless it is there. */
export async function seed({ dcs }) {
  const node = dcs.flatMap((dc) => dc.nodes).find((node) => node.pid !== null)
  if (!node) throw new Error('no node of the cluster runs')
  const url = `http://${node.client}/v1/spaces/default/keys/${WELCOME}`
  const found = await fetch(url)
  if (found.ok) return
  if (found.status !== 404) throw new Error(`the document cannot be read: ${await found.text()}`)
  const doc = new Y.Doc()
  doc.getText('text').insert(0, TEXT)
  const update = Buffer.from(Y.encodeStateAsUpdate(doc)).toString('base64')
  const written = await fetch(url, {
    method: 'POST',
    body: JSON.stringify({ type: 'doc', op: 'update', update: { $bytes: update } }),
  })
  if (!written.ok) throw new Error(`the document cannot be written: ${await written.text()}`)
}

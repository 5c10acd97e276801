// What has happened to the cluster, told from one picture to the next.

/** Events that are kept in view. */
const KEPT = 4

/** What is different between two pictures, as sentences. */
export function differences(before, after) {
  const told = []
  for (const link of after.links) {
    const old = before.links.find(({ a, b }) => a === link.a && b === link.b)
    if (!old || old.state === link.state) continue
    const between = `${link.a} and ${link.b}`
    if (link.state === 'cut') told.push(`The link between ${between} is cut`)
    else if (link.state === 'up') told.push(`${between} are connected again`)
    else if (old.state === 'cut') told.push(`The link between ${between} is healed`)
    else told.push(`${between} have lost their connection`)
  }
  for (const dc of after.dcs) {
    const old = before.dcs.find(({ name }) => name === dc.name)
    for (const node of dc.nodes) {
      const was = old?.nodes.find(({ name }) => name === node.name)
      if (!was || (was.state === 'dead') === (node.state === 'dead')) continue
      told.push(node.state === 'dead' ? `${node.name} is dead${was.leads ? '; it was the leader' : ''}` : `${node.name} is started again`)
    }
    if (old && dc.leader && dc.leader !== old.leader) told.push(`${dc.leader} leads ${dc.name}`)
  }
  return told
}

/** Adds sentences to the list, newest first. */
export function tell(list, sentences, now) {
  for (const sentence of sentences) {
    const item = document.createElement('li')
    const time = document.createElement('time')
    time.textContent = now.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false })
    item.append(time, ` ${sentence}`)
    list.prepend(item)
  }
  while (list.children.length > KEPT) list.lastChild.remove()
}

/** Asks again and again, every `pause` ms, until `condition` answers null; what it answers otherwise is why not yet. */
export async function until(what, condition, { patience, pause }) {
  const deadline = Date.now() + patience
  for (;;) {
    const why = await condition()
    if (why === null) return
    if (Date.now() > deadline) throw new Error(`${what}: ${why}`)
    await new Promise((resolve) => setTimeout(resolve, pause))
  }
}

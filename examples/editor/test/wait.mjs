// Steps that are told, and conditions that are waited for.

/** How long a condition may take to become true, also on a busy machine. */
const PATIENCE_MS = 60_000
const PAUSE_MS = 50

/** Does a part of the test, and says so. */
export async function step(what, act) {
  const began = Date.now()
  try {
    const done = await act()
    console.log(`ok      ${what} (${((Date.now() - began) / 1000).toFixed(1)} s)`)
    return done
  } catch (error) {
    console.log(`FAILED  ${what}`)
    throw error
  }
}

/** Asks again and again until `check` does not fail; what it returns. */
export async function until(what, check) {
  const deadline = Date.now() + PATIENCE_MS
  for (;;) {
    try {
      return await check()
    } catch (error) {
      if (Date.now() > deadline) throw new Error(`not in time: ${what}: ${error.message}`)
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS))
  }
}

// One tab of the browser with the page in it, used by mouse and keyboard and read as it is shown.

import assert from 'node:assert/strict'
import { until } from './wait.mjs'

/** The pause from key to key. */
const KEY_MS = 15

export class Tab {
  #page
  #demo
  #complaints = []

  /** Opens the page, and waits until every pane has the document. */
  static async open(context, demo, document) {
    const tab = new Tab()
    tab.#demo = demo
    tab.#page = await context.newPage()
    tab.#page.on('console', (message) => {
      if (message.type() === 'error' || message.type() === 'warning') tab.#complaints.push(message.text())
    })
    tab.#page.on('pageerror', (error) => tab.#complaints.push(String(error)))
    await tab.#page.goto(`${demo.url}?doc=${encodeURIComponent(document)}`)
    await until('the panes are equal', async () => assert.equal(await tab.agreement(), 'all panes are equal'))
    return tab
  }

  /** What is shown in each pane: its lines, without the cursors of others that are drawn between letters. */
  texts() {
    return this.#page.$$eval('.pane .cm-content', (contents) => contents.map((content) => {
      const copy = content.cloneNode(true)
      for (const drawn of copy.querySelectorAll('.cm-ySelectionCaret, .cm-placeholder, .cm-widgetBuffer')) drawn.remove()
      return [...copy.querySelectorAll('.cm-line')].map((line) => line.textContent).join('\n')
    }))
  }

  agreement() {
    return this.#text('#agreement span')
  }

  saved(dc) {
    return this.#text(`.pane[data-dc="${dc}"] .saved`)
  }

  /** To which node a pane is connected. */
  async node(dc) {
    return (await this.#text(`.pane[data-dc="${dc}"] .where`)).replace('at ', '')
  }

  /** How many others a pane shows to be there. */
  company(dc) {
    return this.#page.locator(`.pane[data-dc="${dc}"] .presence .face`).count()
  }

  /** Whose cursors are drawn in a pane. */
  cursors(dc) {
    return this.#page.locator(`.pane[data-dc="${dc}"] .cm-ySelectionInfo`).allTextContents()
  }

  #text(selector) {
    return this.#page.textContent(selector, { timeout: 5000 })
  }

  /** Types behind so many letters, or at the end. */
  async type(dc, text, { behind } = {}) {
    await this.#page.click(`.pane[data-dc="${dc}"] .cm-content`)
    const keys = behind === undefined ? ['Control+End'] : ['Control+Home', ...Array(behind).fill('ArrowRight')]
    for (const key of keys) await this.#page.keyboard.press(key)
    await this.typeOn(text)
  }

  /** Types where the cursor is. */
  typeOn(text) {
    return this.#page.keyboard.type(text, { delay: KEY_MS })
  }

  cut(pair) {
    return this.#press(`[data-link="${pair}"]`, 'cut')
  }

  heal(pair) {
    return this.#press(`[data-link="${pair}"]`, 'up')
  }

  kill(node) {
    return this.#press(`[data-node="${node}"]`, 'dead')
  }

  restart(node) {
    return this.#press(`[data-node="${node}"]`, 'ready')
  }

  async #press(selector, state) {
    const button = this.#page.locator(selector)
    await button.click()
    await until(`${selector} is ${state}`, async () => assert.equal(await button.getAttribute('data-state'), state))
  }

  async seesLinks(states) {
    for (const [pair, state] of Object.entries(states)) {
      const button = this.#page.locator(`[data-link="${pair}"]`)
      await until(`${pair} is ${state}`, async () => assert.equal(await button.getAttribute('data-state'), state))
    }
  }

  letAllType() {
    return this.#page.click('#all')
  }

  async typesByItself() {
    return (await this.#page.textContent('#all')) !== 'Let all three type'
  }

  switchTheme() {
    return this.#page.click('#theme')
  }

  screenshot(file) {
    return this.#page.screenshot({ path: file })
  }

  /** Fails if the page has written errors or warnings other than that a killed node cannot be reached. */
  hasNoComplaints() {
    assert.deepEqual(this.#complaints.filter((complaint) => !this.#demo.explains(complaint)), [])
  }
}

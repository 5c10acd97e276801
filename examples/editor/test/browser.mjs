// The demo as somebody uses it, in a headless Chromium: text is typed in two datacenters at once, one of them is cut off, both go
// on, the cut heals, leaders die, and in the end every pane and every node says the same.
//
//   MERIDIAN=path/to/meridian CHROMIUM=path/to/chromium SCREENSHOTS=folder npm test
//
// The exit code is 77 where there is no Chromium: not passed, and not failed either.

import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { chromium } from 'playwright-core'
import { person } from '../page/people.js'
import { Demo, findChromium } from './demo.mjs'
import { Tab } from './tab.mjs'
import { step, until } from './wait.mjs'

const SKIPPED = 77
/** How long all of it may take. */
const LIMIT_MS = 300_000
/** A name with what names may have. */
const DOCUMENT = 'tests/the editor'
const [EU, US, ASIA] = ['eu-west', 'us-east', 'ap-south']

const WEST = 'Written in the west while others wrote elsewhere. '
const EAST = 'And this in the east, at the very same time 😀. '

class Story {
  /** Two tabs, so that two people can type at once, and one for who breaks things; each has a pane at every datacenter. */
  constructor(demo, [west, east, operator]) {
    this.demo = demo
    this.tabs = [west, east, operator]
    Object.assign(this, { west, east, operator })
    this.lines = { west: 'west: ', east: 'east: ' }
  }

  get expected() {
    return `${this.lines.west}\n${this.lines.east}`
  }

  /** Types at the end of the west's line, which is the first, and of the east's, each in its own datacenter, at once. */
  async type(west, east) {
    // Only the west types there, so its place does not move.
    const behind = this.lines.west.length
    await Promise.all([this.west.type(EU, west, { behind }), this.east.type(US, east)])
    this.lines.west += west
    this.lines.east += east
  }

  /** Both go on to type, word by word, from before something is done until after it. */
  async typeThrough(act) {
    let done = false
    const typist = async (tab, line) => {
      let last
      let words = 0
      do {
        last = done
        const word = `${line}-${words += 1} `
        await tab.typeOn(word)
        this.lines[line] += word
      } while (!last)
    }
    const acting = act().finally(() => { done = true })
    await Promise.all([typist(this.west, 'west'), typist(this.east, 'east'), acting])
  }

  /** Waits until every pane says this, and the datacenters do by HTTP, asked at each of their nodes that runs. */
  async agree(expected = this.expected) {
    await until('all panes say the same', async () => {
      const texts = (await Promise.all(this.tabs.map((tab) => tab.texts()))).flat()
      assert.deepEqual(texts, texts.map(() => expected))
      for (const tab of this.tabs) assert.equal(await tab.agreement(), 'all panes are equal')
    })
    await until('all nodes say the same', async () => {
      const read = await this.demo.texts(DOCUMENT)
      assert.deepEqual(read, Object.fromEntries(Object.keys(read).map((node) => [node, expected])))
    })
  }

  /** Waits until each pane shows that so many others are there, by datacenter. */
  async seesCompany(counts) {
    await until('all see who is there', async () => {
      for (const tab of this.tabs) {
        for (const [dc, count] of Object.entries(counts)) assert.equal(await tab.company(dc), count, dc)
      }
    })
  }

  async picture(name) {
    if (!process.env.SCREENSHOTS) return
    await mkdir(process.env.SCREENSHOTS, { recursive: true })
    await this.operator.screenshot(path.join(process.env.SCREENSHOTS, `${name}.png`))
  }
}

/** In three tabs with three panes each everybody has eight others. */
const ALL = { [EU]: 8, [US]: 8, [ASIA]: 8 }

/** Names that an editor at a datacenter may have. */
const names = (index) => Array.from({ length: 4 }, (_, client) => person(index, client))

async function typedAtOnce(story) {
  await story.west.type(EU, story.expected)
  await story.agree()
  await story.type(WEST, EAST)
  await story.agree()
  await story.seesCompany(ALL)
  await until('the cursors of other datacenters are drawn', async () => {
    const [inWest, inEast] = [await story.west.cursors(EU), await story.east.cursors(US)]
    assert.ok(inWest.some((name) => names(1).includes(name)), `${inWest}`)
    assert.ok(inEast.some((name) => names(0).includes(name)), `${inEast}`)
  })
  await story.picture('1-typed-at-once')
}

async function typedApart(story) {
  const before = { ...story.lines }
  const wires = [`${EU} ${US}`, `${EU} ${ASIA}`]
  for (const wire of wires) await story.operator.cut(wire)
  await story.east.seesLinks({ [wires[0]]: 'cut', [wires[1]]: 'cut', [`${US} ${ASIA}`]: 'up' })
  await story.type('Cut off, and still writing. ', 'Nobody here has to wait. ')
  const west = `${story.lines.west}\n${before.east}`
  const east = `${before.west}\n${story.lines.east}`
  // Each side has its own, on disk, and nothing of the other's.
  await until('each side goes on by itself', async () => {
    for (const tab of story.tabs) {
      assert.deepEqual(await tab.texts(), [west, east, east])
      assert.equal(await tab.agreement(), 'panes differ while a link is cut')
    }
    assert.equal(await story.west.saved(EU), `saved in ${EU}: on 2 of 3 disks`)
    const read = await story.demo.texts(DOCUMENT)
    assert.deepEqual(read, Object.fromEntries(Object.keys(read).map((node) => [node, node.startsWith(EU) ? west : east])))
  })
  // Whom a datacenter cannot hear any more is not shown as if he were there.
  await story.seesCompany({ [EU]: 2, [US]: 5, [ASIA]: 5 })
  await until('what waits is counted', async () => {
    const waiting = (await story.demo.state()).links.find((link) => link.a === EU && link.b === US).waiting
    assert.ok(waiting.every((txns) => txns > 0), `${waiting}`)
  })
  await story.picture('2-typed-apart')
  for (const wire of wires) await story.operator.heal(wire)
  await story.agree()
  await story.west.seesLinks({ [wires[0]]: 'up', [wires[1]]: 'up' })
  await story.seesCompany(ALL)
  await story.picture('3-healed')
}

async function leadersDie(story) {
  const dead = []
  await story.type('Now leaders die: ', 'Here too: ')
  await story.typeThrough(async () => {
    for (const dc of [EU, US]) {
      const leader = (await story.demo.state()).dcs.find(({ name }) => name === dc).leader
      dead.push({ dc, leader, served: (await story.west.node(dc)) === leader })
      await story.demo.expectsLossOf(leader)
      await story.operator.kill(leader)
    }
    await story.picture('4-leaders-are-dead')
  })
  assert.ok(dead.some(({ served }) => served), 'a pane was connected to a leader that died')
  for (const { dc, leader } of dead) {
    await until(`${dc} has another leader, and its pane another node`, async () => {
      const next = (await story.demo.state()).dcs.find(({ name }) => name === dc).leader
      assert.ok(next !== null && next !== leader, `${next}`)
      for (const tab of story.tabs) assert.notEqual(await tab.node(dc), leader)
    })
  }
  await story.agree()
  await story.picture('5-others-lead')
  for (const { leader } of dead) await story.operator.restart(leader)
  await story.agree()
  assert.equal(Object.keys(await story.demo.texts(DOCUMENT)).length, 9, 'all nodes are there again')
  await story.seesCompany(ALL)
}

/** What is called saved is: with one node of three a datacenter keeps nothing for certain, and says so. */
async function nothingIsSavedWithoutAMajority(story) {
  const left = await story.west.node(EU)
  const others = (await story.demo.state()).dcs.find(({ name }) => name === EU).nodes.map(({ name }) => name).filter((name) => name !== left)
  for (const node of others) {
    await story.demo.expectsLossOf(node)
    await story.operator.kill(node)
  }
  const { west } = story.lines
  await story.type('Not certain. ', 'Certain. ')
  await until('the other datacenters go on', async () => {
    const [, us, asia] = await story.west.texts()
    assert.deepEqual([us, asia], Array(2).fill(`${west}\n${story.lines.east}`))
  })
  assert.doesNotMatch(await story.west.saved(EU), /^saved/)
  await story.picture('6-no-majority')
  for (const node of others) await story.operator.restart(node)
  await story.agree()
  await until('it is saved', async () => assert.equal(await story.west.saved(EU), `saved in ${EU}: on 2 of 3 disks`))
}

/** The letting type of the page is a part of the demo too: its paragraphs come out whole, whoever types next to them. */
async function typesByItself(story) {
  await story.operator.letAllType()
  await until('the paragraphs are typed and everywhere', async () => {
    const texts = (await Promise.all(story.tabs.map((tab) => tab.texts()))).flat()
    assert.deepEqual(texts, texts.map(() => texts[0]))
    for (const place of ['Frankfurt', 'Virginia', 'Mumbai']) assert.match(texts[0], new RegExp(`^From ${place}: .*\\.$`, 'm'))
    assert.ok(!await story.operator.typesByItself())
    assert.ok(texts[0].startsWith(`${story.expected}\n\n`), texts[0])
  })
  await story.operator.switchTheme()
  await story.picture('7-dark')
}

async function run(executablePath) {
  const folder = await mkdtemp(path.join(tmpdir(), 'meridian-editor-test-'))
  let demo, browser
  try {
    demo = await step('a cluster is started', () => Demo.start(folder))
    await step('nobody but the page may break it', () => demo.refusesOthers())
    browser = await chromium.launch({ executablePath, timeout: 60_000 })
    const context = await browser.newContext({ viewport: { width: 1400, height: 860 }, colorScheme: 'light' })
    const open = () => Tab.open(context, demo, DOCUMENT)
    const story = new Story(demo, [await open(), await open(), await open()])
    await step('two people type in two datacenters at once', () => typedAtOnce(story))
    await step('a datacenter is cut off, both sides type on, the cut heals', () => typedApart(story))
    await step('two leaders die while both type', () => leadersDie(story))
    await step('nothing is called saved without a majority', () => nothingIsSavedWithoutAMajority(story))
    await step('the page types by itself', () => typesByItself(story))
    await step('the page had nothing to complain of', () => story.tabs.forEach((tab) => tab.hasNoComplaints()))
    await browser.close()
    await step('Ctrl-C ends everything', () => demo.stop())
  } finally {
    await browser?.close()
    // It is stopped already, unless something else has failed, which is what should be told.
    await demo?.stop().catch((error) => console.error(error))
  }
  // What is left after a failure may say why.
  await rm(folder, { recursive: true })
}

const executable = findChromium()
if (executable === null) {
  console.error('there is no Chromium: install one (apt-get install chromium), or name one by the variable CHROMIUM')
  process.exit(SKIPPED)
}
const late = setTimeout(() => {
  console.error(`it has taken more than ${LIMIT_MS / 1000} s`)
  process.kill(process.pid, 'SIGTERM')
}, LIMIT_MS)
await run(executable)
clearTimeout(late)

// Who sits at which datacenter, and what they type when they are let.

/** By the order of datacenters; who opens the page twice is somebody else there. */
const NAMES = [
  ['Anna', 'Emil', 'Sofia', 'Luca'],
  ['Ben', 'Grace', 'Owen', 'Ruth'],
  ['Chitra', 'Arjun', 'Mei', 'Tuan'],
]

const SENTENCES = [
  [
    'From Frankfurt: the river is up, and the ferries are late again.',
    'I move the meeting to nine; shout if that is too early for you.',
    'Whatever happens to the cable, this sentence is on two disks already.',
  ],
  [
    'From Virginia: good morning, I have read your notes over coffee.',
    'Nine is fine. I add the numbers of last week below.',
    'If we are cut off now, I simply go on, and you will have it later.',
  ],
  [
    'From Mumbai: it rains, as it should, and the team is in.',
    'We have tested the new build here; nobody had to wait for Europe.',
    'When the link is back, none of this is lost and none of it is doubled.',
  ],
]

/** How fast a person types, from key to key. */
const KEY_MS = [35, 110]

/** Who this editor is. */
export function person(index, clientId) {
  const names = NAMES[index % NAMES.length]
  return names[clientId % names.length]
}

/** What the `turn`-th thing is that is typed at a datacenter. */
export function sentence(index, turn) {
  const sentences = SENTENCES[index % SENTENCES.length]
  return sentences[turn % sentences.length]
}

/** The pause before the next key. */
export function pause() {
  const [least, most] = KEY_MS
  return least + Math.random() * (most - least)
}

// Sends a file by tus-js-client, given up at random places and gone on with until it is whole.
// node tus_sender.mjs <module> <endpoint> <file> <how often to break off>
import { readFileSync } from 'node:fs'

const [module, endpoint, file, cuts] = process.argv.slice(2)
const tus = await import(module)
const data = readFileSync(file)
let url = null
let left = Number(cuts)

function send() {
  return new Promise((resolve, reject) => {
    const breakAt = left > 0 ? Math.random() * data.length : Infinity
    const upload = new tus.Upload(data, {
      endpoint,
      uploadUrl: url,
      chunkSize: 50_000,
      retryDelays: [0, 200, 1000],
      metadata: { filename: 'sent.png' },
      onError: reject,
      onSuccess: () => resolve(true),
      onProgress(sent) {
        if (sent < breakAt || upload.url === null) return
        url = upload.url
        left -= 1
        upload.abort().then(() => resolve(false))
      },
    })
    upload.start()
  })
}

while (!(await send())) continue
console.log(url)

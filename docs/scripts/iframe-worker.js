// Search in pages that were opened from the disk, where browsers refuse to start a worker: its script runs in a
// hidden frame instead, with the same messages. The offline plugin loads a script of this kind from the network
// unless it finds one of this name.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super()
      this.waiting = []
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.documentElement.appendChild(frame)
      this.inside = frame.contentWindow
      this.inside.postMessage = data => this.answer(data)
      const script = this.inside.document.createElement("script")
      script.src = new URL(address, location.href)
      script.onload = () => this.begin()
      this.inside.document.body.appendChild(script)
    }

    answer(data) {
      const message = new MessageEvent("message", { data })
      this.onmessage?.(message)
      this.dispatchEvent(message)
    }

    begin() {
      const waiting = this.waiting
      this.waiting = null
      waiting.forEach(data => this.postMessage(data))
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data)
      else this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data }))
    }

    terminate() {
      this.inside.frameElement.remove()
    }
  }
}

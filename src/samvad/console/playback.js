// In the audio thread: a queue of PCM16 at 24 kHz. It knows what was played of the answer, also when it is emptied.
const REPORT_SAMPLES = 2400;  // 100 ms

class Playback extends AudioWorkletProcessor {
  constructor() {
    super();
    this.queue = [];
    this.at = 0;  // in the first piece of the queue
    this.played = 0;  // samples of this answer
    this.reported = 0;
    this.port.onmessage = ({ data }) => {
      if (data.push) this.queue.push(new Int16Array(data.push));
      if (data.flush) {
        const played = this.played;
        this.queue = [];
        this.at = 0;
        this.played = this.reported = 0;
        this.port.postMessage({ flushed: data.flush, playedMs: played / 24 });
      }
    };
  }

  process(inputs, outputs) {
    const output = outputs[0][0];
    let wrote = 0;
    while (wrote < output.length && this.queue.length) {
      const piece = this.queue[0];
      const many = Math.min(output.length - wrote, piece.length - this.at);
      for (let i = 0; i < many; i++) output[wrote + i] = piece[this.at + i] / 0x8000;
      wrote += many;
      this.at += many;
      if (this.at === piece.length) {
        this.queue.shift();
        this.at = 0;
      }
    }
    this.played += wrote;
    const emptied = wrote > 0 && !this.queue.length;
    if (this.played - this.reported >= REPORT_SAMPLES || emptied) {
      this.reported = this.played;
      this.port.postMessage({ playedMs: this.played / 24, empty: !this.queue.length });
    }
    return true;
  }
}

registerProcessor("playback", Playback);

// In the audio thread: the microphone at 16 kHz, in pieces of 32 ms of PCM16, each with its loudness.
const PIECE = 512;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Int16Array(PIECE);
    this.filled = 0;
    this.sum = 0;
  }

  process(inputs) {
    const channel = inputs[0][0];
    if (!channel) return true;
    for (const sample of channel) {
      const bounded = Math.max(-1, Math.min(1, sample));
      this.piece[this.filled++] = bounded < 0 ? bounded * 0x8000 : bounded * 0x7fff;
      this.sum += bounded * bounded;
      if (this.filled === PIECE) {
        const loudness = Math.sqrt(this.sum / PIECE);
        this.port.postMessage({ piece: this.piece.buffer, loudness }, [this.piece.buffer]);
        this.piece = new Int16Array(PIECE);
        this.filled = 0;
        this.sum = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);

// The microphone and the loudspeaker.
const PRE_ROLL = 10;  // pieces of 32 ms that are sent from before speech was noticed
const BEGIN_PIECES = 4, END_PIECES = 24;  // loud for about 130 ms; quiet for about 770 ms
const LOUD_MIN = 0.012, LOUDER_THAN_NOISE = 3;

const file = (name) => new URL(name, import.meta.url);

/** What the assistant says, and how much of it was played. */
export class Speaker {
  constructor(onProgress) {
    this.onProgress = onProgress;
    this.waiting = new Map();
    this.playedMs = 0;
    this.playing = false;
    this.early = [];
    this.flushes = 0;
  }

  /** To be called in a click or key: browsers allow sound only then. */
  async open() {
    if (this.context) return this.context.resume();
    this.context = new AudioContext({ sampleRate: 24000 });
    await this.context.audioWorklet.addModule(file("playback.js"));
    this.node = new AudioWorkletNode(this.context, "playback", { numberOfInputs: 0, outputChannelCount: [1] });
    this.node.port.onmessage = ({ data }) => {
      if (data.flushed) {
        this.waiting.get(data.flushed)?.(data.playedMs);
        this.waiting.delete(data.flushed);
        return;
      }
      if (!this.playing) return;
      this.playedMs = data.playedMs;
      if (data.empty) this.playing = false;
      this.onProgress(data.playedMs, data.empty);
    };
    this.node.connect(this.context.destination);
    for (const piece of this.early.splice(0)) this.push(piece);
  }

  push(buffer) {
    this.playing = true;
    if (this.node) this.node.port.postMessage({ push: buffer }, [buffer]);
    else if (this.early.length < 500) this.early.push(buffer);
  }

  /** Be silent; resolves with the milliseconds that were played of the answer. */
  flush() {
    this.playing = false;
    this.playedMs = 0;
    this.early = [];
    if (!this.node) return Promise.resolve(0);
    const id = ++this.flushes;
    this.node.port.postMessage({ flush: id });
    return new Promise((resolve) => this.waiting.set(id, resolve));
  }
}

/** The user's voice. `on` has begin, piece (of PCM16 at 16 kHz), end and level. */
export class Microphone {
  constructor(on) {
    this.on = on;
    this.talking = false;
    this.held = false;
    this.handsFree = false;
    this.noise = 0.004;
    this.loud = this.quiet = 0;
    this.before = [];
  }

  async open() {
    if (this.context) return this.context.resume();
    const stream = await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true },
    });
    const context = new AudioContext({ sampleRate: 16000 });
    await context.audioWorklet.addModule(file("capture.js"));
    const node = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }) => this.take(data.piece, data.loudness);
    context.createMediaStreamSource(stream).connect(node);
    this.stream = stream;
    this.context = context;
  }

  close() {
    this.end();
    this.stream?.getTracks().forEach((track) => track.stop());
    this.context?.close();
    this.context = this.stream = null;
    this.before = [];
  }

  hold(held) {
    this.held = held;
    if (held) this.begin();
    else if (!this.handsFree) this.end();
  }

  begin() {
    if (this.talking) return;
    this.talking = true;
    this.quiet = 0;
    this.on.begin();
    for (const piece of this.before.splice(0)) this.on.piece(piece);
  }

  end() {
    if (!this.talking) return;
    this.talking = false;
    this.loud = 0;
    this.on.end();
  }

  take(piece, loudness) {
    this.on.level(loudness);
    const loud = loudness > Math.max(LOUD_MIN, this.noise * LOUDER_THAN_NOISE);
    if (!loud) this.noise += (loudness - this.noise) * 0.05;
    if (this.talking) {
      this.on.piece(piece);
      this.quiet = loud ? 0 : this.quiet + 1;
      if (this.handsFree && !this.held && this.quiet >= END_PIECES) this.end();
      return;
    }
    if (this.handsFree) {
      this.before.push(piece);
      if (this.before.length > PRE_ROLL) this.before.shift();
      this.loud = loud ? this.loud + 1 : Math.max(0, this.loud - 1);
      if (this.loud >= BEGIN_PIECES) this.begin();
    }
  }
}

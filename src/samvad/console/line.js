// The socket: frames in and out, reconnecting by itself, and going on where it was.
const RETRY_MS_MIN = 300, RETRY_MS_MAX = 6000, SILENCE_MS_MAX = 25000, PING_MS = 10000;

// Close codes after which it does not connect again by itself, and what to offer.
const FINAL = {
  1000: ["The conversation is over.", "Talk again"],
  4000: ["The conversation has ended: nobody said anything for long.", "Talk again"],
  4001: ["The conversation has ended: it had lasted as long as one may.", "Talk again"],
  4002: ["This conversation goes on in another window.", "Use it here"],
  4004: ["Everything that was kept of you has been erased.", "Begin anew"],
  4005: ["This conversation has been deleted.", "Begin anew"],
  4006: ["The server has given up on this page.", "Try again"],
  4008: ["The token of this page has expired: open it with a newer one.", "Try again"],
  4009: ["The token of this page is not good any more.", "Try again"],
};

export class Line {
  /** `first()` gives the fields of start_session; `on` has frame, audio, state and over. */
  constructor(first, on) {
    this.first = first;
    this.on = on;
    this.token = null;  // who is talking, where the server asks
    this.known = null;  // session, token, epoch and last place, for going on in this page
    this.ready = false;
    this.tries = 0;
    addEventListener("online", () => this.hurry());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.hurry());
    setInterval(() => this.watch(), PING_MS);
  }

  open() {
    clearTimeout(this.timer);
    this.timer = null;
    const address = new URL("api/live", location.href);
    address.protocol = address.protocol.replace("http", "ws");
    const protocols = ["samvad.v1"];
    if (this.token) protocols.push(`samvad.bearer.${this.token}`);
    const socket = new WebSocket(address, protocols);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.on.state(this.known ? "reconnecting" : "connecting");
    socket.onopen = () => {
      this.heard = Date.now();
      const frame = { type: "start_session", ...this.first() };
      if (this.known) {
        const { sessionId, token, epoch, lastSeq } = this.known;
        Object.assign(frame, { sessionId, resume: { token, epoch, lastSeq } });
      }
      socket.send(JSON.stringify(frame));
    };
    socket.onmessage = ({ data }) => {
      if (socket !== this.socket) return;
      this.heard = Date.now();
      if (typeof data === "string") this.take(JSON.parse(data));
      else this.on.audio(data);
    };
    socket.onclose = ({ code }) => {
      if (socket !== this.socket) return;
      this.socket = null;
      this.ready = false;
      if (FINAL[code]) {
        if (code === 4004 || code === 4005 || code === 4008 || code === 4009) this.known = null;
        this.on.state("over");
        this.on.over(code, ...FINAL[code]);
        return;
      }
      this.on.state("reconnecting");
      const wait = Math.min(RETRY_MS_MIN * 2 ** this.tries++, RETRY_MS_MAX) * (0.5 + Math.random() / 2);
      this.timer = setTimeout(() => this.open(), wait);
    };
  }

  take(frame) {
    if (frame.type === "session_started") {
      this.again = this.known !== null;
      this.known = { sessionId: frame.sessionId, token: frame.resumeToken, epoch: frame.epoch, lastSeq: frame.seq };
    } else if (frame.type === "session_ready") {
      this.ready = true;
      this.tries = 0;
      this.on.state("ready");
    } else if (frame.type === "resume_token") {
      this.known.token = frame.resumeToken;
    } else if (frame.type === "error" && frame.code === "invalid_resume_token" && this.known) {
      this.known = null;  // as if the page were new: the history comes with the start
      this.send({ type: "start_session", ...this.first() });
      return;
    }
    if (this.known && Number.isInteger(frame.seq)) this.known.lastSeq = Math.max(this.known.lastSeq, frame.seq);
    this.on.frame(frame);
  }

  send(frame) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(frame));
  }

  sendAudio(buffer) {
    // What cannot get out is old by the time it could: speech is not queued without end.
    if (this.ready && this.socket.bufferedAmount < 256 * 1024) this.socket.send(buffer);
  }

  /** Leave this session, and begin the one that `first()` names now. */
  renew() {
    this.known = null;
    this.ready = false;
    const old = this.socket;
    this.socket = null;
    old?.close(1000);
    this.tries = 0;
    this.open();
  }

  hurry() {
    if (this.timer) this.open();
    else this.watch();
  }

  watch() {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    if (Date.now() - this.heard > SILENCE_MS_MAX) {
      const dead = this.socket;
      dead.onclose({ code: 1006 });
      dead.close();
    } else this.send({ type: "ping" });
  }
}

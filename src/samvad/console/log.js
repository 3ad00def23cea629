// The conversation as it is shown: bubbles by turn and by message, in order.

export class Conversation {
  /** `goOn()` is called when the user wants the rest of an interrupted answer. */
  constructor(log, goOn) {
    this.log = log;
    this.empty = document.getElementById("empty");
    this.goOn = goOn;
    this.byTurn = new Map();
    this.byMessage = new Map();
    this.lastCut = null;
  }

  clear() {
    this.log.replaceChildren();
    this.byTurn.clear();
    this.byMessage.clear();
    this.lastCut = null;
  }

  /** A stored message: of the history, of another device, or kept while the line was down. */
  show(message, elsewhere = false) {
    if (message.role !== "user" && message.role !== "assistant") return;
    const turnId = message.metadata?.turnId;
    const key = message.role === "assistant" && turnId ? turnId : null;
    let item = this.byMessage.get(message.id) ?? (key && this.byTurn.get(key));
    if (!item) item = this.add(message.role);
    this.byMessage.set(message.id, item);
    if (key) this.byTurn.set(key, item);
    this.fill(item, message.content, message.interrupted ? (message.unheardText ?? "") : null);
    item.classList.remove("pending", "speaking");
    if (elsewhere) this.tell(item, "from another device");
  }

  /** The user has written something here. */
  wrote(id, text) {
    const item = this.add("user");
    item.classList.add("pending");
    this.byMessage.set(id, item);
    this.fill(item, text, null);
    this.follow(true);
  }

  /** Words of the user's speech, as they become known. */
  hears(turnId, text) {
    if (!text) return;
    const key = `user ${turnId}`;
    let item = this.byTurn.get(key);
    if (!item) {
      item = this.add("user");
      item.classList.add("pending");
      this.byTurn.set(key, item);
    }
    item.firstElementChild.append(text);
    this.follow();
  }

  /** What the user said or wrote has its place in the history. */
  said(turnId, messageId, text) {
    const item = this.byMessage.get(messageId) ?? this.byTurn.get(`user ${turnId}`) ?? this.add("user");
    this.byMessage.set(messageId, item);
    this.fill(item, text, null);
    item.classList.remove("pending");
  }

  /** More of an answer. */
  grow(turnId, text) {
    let item = this.byTurn.get(turnId);
    if (!item) {
      item = this.add("assistant");
      item.classList.add("speaking");
      this.byTurn.set(turnId, item);
    }
    item.firstElementChild.append(text);
    this.follow();
  }

  /** An answer was interrupted. */
  cut(turnId, heard, unheard, canResume) {
    const item = this.byTurn.get(turnId);
    if (!item) return;
    item.classList.remove("speaking");
    this.fill(item, heard, unheard);
    this.offerToGoOn(canResume);
    this.follow();
  }

  /** Nobody speaks any more: the line was lost. */
  hush() {
    this.log.querySelectorAll(".speaking").forEach((item) => item.classList.remove("speaking"));
  }

  /** A piece of an answer that was never kept: it is said anew. */
  drop(turnId) {
    const item = this.byTurn.get(turnId);
    if (!item || [...this.byMessage.values()].includes(item)) return;
    item.remove();
    this.byTurn.delete(turnId);
  }

  complete(turnId, messageIds) {
    const item = this.byTurn.get(turnId);
    item?.classList.remove("speaking");
    for (const id of messageIds) {
      const known = this.byMessage.get(id);
      if (known) known.classList.remove("pending");
      else if (item) this.byMessage.set(id, item);
    }
  }

  /** The last interrupted answer offers the rest of itself, or does so no more. */
  offerToGoOn(possible) {
    this.log.querySelectorAll(".cut button").forEach((button) => button.remove());
    if (!possible || !this.lastCut) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Go on";
    button.addEventListener("click", () => this.goOn());
    this.lastCut.append(button);
  }

  aside(text) {
    const note = document.createElement("p");
    note.className = "aside";
    note.textContent = text;
    this.append(note);
  }

  fill(item, text, unheard) {
    const bubble = item.firstElementChild;
    bubble.textContent = text;
    item.querySelector(".cut")?.remove();
    if (unheard === null) return;
    if (unheard) {
      const rest = document.createElement("span");
      rest.className = "unheard";
      rest.textContent = (text && !/\s$/.test(text) ? " " : "") + unheard;
      bubble.append(rest);
    }
    const cut = document.createElement("p");
    cut.className = "cut";
    cut.append("Interrupted here; what is struck out was not heard.");
    item.append(cut);
    this.lastCut = cut;
  }

  tell(item, text) {
    if (item.querySelector(".from")) return;
    const from = document.createElement("p");
    from.className = "from";
    from.textContent = text;
    item.append(from);
  }

  add(role) {
    const item = document.createElement("div");
    item.className = `message ${role}`;
    const bubble = document.createElement("div");
    bubble.className = "bubble";
    bubble.dir = "auto";
    item.append(bubble);
    item.setAttribute("aria-label", role === "user" ? "You" : "Assistant");
    item.setAttribute("role", "group");
    this.append(item);
    return item;
  }

  append(item) {
    this.empty.remove();
    const low = this.isLow();
    this.log.append(item);
    this.follow(low);
  }

  isLow() {
    return this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 120;
  }

  follow(always = false) {
    if (always || this.isLow()) this.log.scrollTop = this.log.scrollHeight;
  }
}

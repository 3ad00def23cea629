// The page: what is shown, and what its controls do.
import { Conversation } from "./log.js";
import { Line } from "./line.js";
import { Microphone, Speaker } from "./sound.js";

const $ = (id) => document.getElementById(id);
const PLAYBACK_MS = 300;

const STATES = { connecting: "Connecting…", reconnecting: "Reconnecting…", ready: "Connected", over: "Ended", asking: "Not connected" };

const kept = (store, name, value) => {
  try {
    if (value === null) store.removeItem(name);
    else if (value !== undefined) store.setItem(name, value);
    return store.getItem(name);
  } catch {
    return null;  // storage is switched off: everything works but remembering
  }
};

// Where there is a token, nothing of who it is outlives the window.
const withToken = new URLSearchParams(location.hash.slice(1)).has("token") || kept(sessionStorage, "samvad.token");
const remembered = withToken ? sessionStorage : localStorage;

function nameOfUser() {
  const asked = new URLSearchParams(location.search).get("user");
  return asked || kept(remembered, "samvad.user") || `guest-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;
}

let user = nameOfUser();
kept(remembered, "samvad.user", user);
let turn = null;  // the answer under way: {id, text, spoken}
let asked = null;  // the last thing written that has no answer yet: {id, text}
let dropped = null;  // the answer that was under way when the line was lost
let interrupting = false;  // audio that still comes is of an answer that was stopped
let freshSound = true;  // the next piece of audio begins an answer
let goOnPossible = false;
let lastReport = 0;
let speaking = Promise.resolve();  // the user's speech, in order

const conversation = new Conversation($("log"), goOn);
const speaker = new Speaker(onProgress);
const microphone = new Microphone({ begin: onVoiceBegins, piece: onVoice, end: onVoiceEnds, level: () => {} });
const line = new Line(first, { frame: onFrame, audio: onAudio, state: onState, over: onOver });

// A token comes behind the #, which no browser sends to a server, and is kept for as long as the window. Anybody can make
// a link that brings their own, and would read what is said here: so it is used when the person at the screen has said
// that they are this user, and not before. The server takes it for no other user than the one that the page names. One
// that comes later for the same user renews it.
let confirmed = kept(sessionStorage, "samvad.confirmed");

function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) history.replaceState(null, "", location.pathname + location.search);
  return given;
}

/** Who a token makes of the person at the screen: the user of the page, in the tenant that a minted token names. */
function whoseIs(token) {
  try {
    const [tenant] = JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
    if (tenant && tenant !== "default") return `${user} of ${tenant}`;
  } catch {
    // a JWT, of the issuer that the server knows
  }
  return user;
}

/** Go on with this token; where they have not said yet that they are this user, ask. */
function offer(token) {
  if (!line.ready) onState("asking");
  if (token.startsWith("samvad_k1_")) {
    notice("A link has brought an API key, which is for programs. Open this page with a token of one user.");
    return;
  }
  const who = whoseIs(token);
  if (confirmed === who) {
    adopt(token);
    return;
  }
  notice(`A link has opened this page for ${who}. Go on only if that is you: what you say is kept there.`,
    `Go on as ${who}`, () => {
      confirmed = who;
      kept(sessionStorage, "samvad.confirmed", who);
      adopt(token);
    });
}

function adopt(token) {
  line.token = kept(sessionStorage, "samvad.token", token) ?? token;
  notice(null);
  if (line.ready) line.send({ type: "renew_token", token });
  else line.renew();
}

addEventListener("hashchange", () => {
  const given = takeToken();
  if (given) offer(given);
});

function first() {
  const language = kept(localStorage, "samvad.language");
  const sessionId = kept(sessionStorage, "samvad.session");
  return {
    userId: user,
    clientActivity: true,
    ...(language ? { language } : {}),
    ...(sessionId ? { sessionId } : {}),
  };
}

// --- what the server says ----------------------------------------------------------------------------------

const HANDLERS = {
  session_started(frame) {
    kept(sessionStorage, "samvad.session", frame.sessionId);
    const language = frame.language.split("-")[0];
    if ([...$("language").options].some((option) => option.value === language)) $("language").value = language;
    $("voice").hidden = !frame.audioIn;
    $("text").placeholder = frame.audioIn ? "Write, or speak" : "Write something";
    goOnPossible = Boolean(frame.interruption);
    dropped = turn;
    endTurn();
    conversation.hush();
    if (frame.history) {
      conversation.clear();
      dropped = null;
      for (const message of frame.history) conversation.show(message);
      if (frame.welcome) conversation.aside(frame.welcome);
      conversation.offerToGoOn(goOnPossible);
    }
  },
  session_ready() {
    if (dropped && goOnPossible) goOn();
    else if (asked) {
      if (dropped) conversation.drop(dropped.id);
      line.send({ type: "user_text", ...asked });
    } else conversation.offerToGoOn(goOnPossible);
    dropped = null;
    showControls();
  },
  text_chunk(frame) {
    answer(frame.turnId, frame.text, false);
  },
  transcript(frame) {
    if (frame.role === "assistant") answer(frame.turnId, frame.text, true);
    else if (frame.final) {
      conversation.said(frame.turnId, frame.messageId, frame.text);
    } else conversation.hears(frame.turnId, frame.text);
  },
  interrupted(frame) {
    interrupting = false;
    if (turn?.id === frame.turnId) {
      speaker.flush();
      endTurn();
    }
    goOnPossible = frame.canResume;
    conversation.cut(frame.turnId, frame.heardText, frame.unheardText, frame.canResume);
  },
  turn_complete(frame) {
    if (asked && frame.messageIds.includes(asked.id)) asked = null;
    if (turn?.id === frame.turnId) endTurn();
    conversation.complete(frame.turnId, frame.messageIds);
    interrupting = false;
    $("caption").textContent = "";
  },
  message(frame) {
    conversation.show(frame.message, frame.message.sessionId !== line.known.sessionId);
  },
  gap(frame) {
    conversation.aside(`Messages ${frame.from} to ${frame.to} are not shown here.`);
  },
  language_changed(frame) {
    const chosen = kept(localStorage, "samvad.language");
    if (chosen && chosen !== "auto") $("language").value = frame.language.split("-")[0];
  },
  tool_call(frame) {
    $("caption").textContent = `Looking it up (${frame.name})…`;
  },
  tool_result(frame) {
    $("caption").textContent = frame.ok ? "" : frame.error;
  },
  warning(frame) {
    notice(frame.code === "token_expires" ? `The token of this page ends in ${frame.inS} s.` : frame.message);
  },
  token_renewed() {
    notice(null);
  },
  error(frame) {
    notice(frame.message);
    interrupting = false;
    if (!frame.retryable) asked = null;
    showControls();
  },
};

function onFrame(frame) {
  HANDLERS[frame.type]?.(frame);
}

function answer(turnId, text, spoken) {
  if (turn?.id !== turnId) {
    turn = { id: turnId, text: "", spoken };
    conversation.offerToGoOn(false);
    $("caption").textContent = "";
    notice(null);
    showControls();
  }
  turn.text += text;
  conversation.grow(turnId, text);
}

function endTurn() {
  turn = null;
  freshSound = true;
  showControls();
}

function onAudio(buffer) {
  if (interrupting) return;
  if (freshSound) {
    freshSound = false;
    speaker.flush();
  }
  speaker.push(buffer);
  showControls();
}

function onProgress(playedMs, empty) {
  const now = performance.now();
  if (empty || now - lastReport > PLAYBACK_MS) {
    lastReport = now;
    line.send({ type: "playback", playedMs, ...(empty ? { finished: true } : {}) });
  }
}

function onState(state) {
  $("state").dataset.state = state;
  $("state").textContent = STATES[state];
  if (state !== "ready") speaker.flush();
  showControls();
}

function onOver(code, text, offer) {
  endTurn();
  if (code === 4004 || code === 4008 || code === 4009) {  // whoever looks at the screen next is not let in any more
    conversation.clear();
    asked = dropped = null;
    line.token = kept(sessionStorage, "samvad.token", null);
  }
  notice(text, offer, () => {
    notice(null);
    if (code !== 4002) kept(sessionStorage, "samvad.session", null);
    line.renew();
  });
}

// --- what the user does ------------------------------------------------------------------------------------

function send() {
  const text = $("text").value.trim();
  if (!text || !line.ready) return;
  const frame = { text, id: crypto.randomUUID?.() ?? `m-${Date.now()}-${Math.random().toString(36).slice(2)}` };
  asked = { ...frame };
  const position = heardSoFar();
  conversation.wrote(frame.id, text);
  $("text").value = "";
  grow();
  line.send({ type: "user_text", ...frame, ...position });
}

/** How far the answer under way was heard or read, as the server wants to know it. */
function heardSoFar() {
  if (!turn) return {};
  return speaker.playing || speaker.playedMs ? { playedMs: speaker.playedMs } : { playedChars: [...turn.text].length };
}

async function stop() {
  if (!turn && !speaker.playing) return;
  const position = heardSoFar();
  interrupting = Boolean(turn);
  if (speaker.playing) position.playedMs = await speaker.flush();
  line.send({ type: "interrupt", ...position });
}

function goOn() {
  conversation.offerToGoOn(false);
  goOnPossible = false;
  line.send({ type: "resume_interruption" });
}

function onVoiceBegins() {
  const answered = turn;
  interrupting = Boolean(turn);
  $("hold").dataset.live = "true";
  $("caption").textContent = "Listening…";
  const flushed = speaker.playing ? speaker.flush() : Promise.resolve(null);
  speaking = speaking.then(() => flushed).then((playedMs) => {
    line.send({ type: "activity_start", ...(answered && playedMs !== null ? { playedMs } : {}) });
  });
}

function onVoice(piece) {
  speaking = speaking.then(() => line.sendAudio(piece));
}

function onVoiceEnds() {
  $("hold").dataset.live = "false";
  $("caption").textContent = "";
  speaking = speaking.then(() => line.send({ type: "activity_end" }));
}

async function withMicrophone(use) {
  try {
    await Promise.all([speaker.open(), microphone.open()]);
    use();
    return true;
  } catch (error) {
    notice(
      error.name === "NotAllowedError"
        ? "The browser does not let this page use the microphone."
        : "There is no microphone that could be used."
    );
    return false;
  }
}

let held = false;
function press(event) {
  event.preventDefault();
  if (held || !line.ready) return;
  held = true;
  withMicrophone(() => held && microphone.hold(true));
}

function release() {
  if (!held) return;
  held = false;
  microphone.hold(false);
  if (!microphone.handsFree) setTimeout(() => !held && !microphone.handsFree && microphone.close(), 60000);
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  speaker.open();
  send();
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});
$("text").addEventListener("input", grow);
$("stop").addEventListener("click", stop);
document.addEventListener("keydown", (event) => event.key === "Escape" && stop());
$("hold").addEventListener("pointerdown", (event) => {
  $("hold").setPointerCapture(event.pointerId);
  press(event);
});
for (const kind of ["pointerup", "pointercancel", "lostpointercapture"]) $("hold").addEventListener(kind, release);
$("hold").addEventListener("keydown", (event) => event.key === " " && !event.repeat && press(event));
$("hold").addEventListener("keyup", (event) => event.key === " " && release());
$("hold").addEventListener("blur", release);
$("hands-free").addEventListener("change", async () => {
  const wanted = $("hands-free").checked;
  if (wanted && !(await withMicrophone(() => {}))) {
    $("hands-free").checked = false;
    return;
  }
  microphone.handsFree = wanted;
  $("hold").disabled = wanted;
  if (!wanted) microphone.close();
});
$("language").addEventListener("change", () => {
  kept(localStorage, "samvad.language", $("language").value);
  line.send({ type: "set_language", language: $("language").value });
});
$("user").value = user;
$("user").addEventListener("change", () => {
  user = $("user").value.trim() || user;
  $("user").value = user;
  kept(remembered, "samvad.user", user);
  kept(sessionStorage, "samvad.session", null);
  asked = null;
  conversation.clear();
  line.renew();
});

// --- what is shown -----------------------------------------------------------------------------------------

function showControls() {
  $("send").disabled = !line?.ready;
  $("stop").hidden = !(turn || speaker?.playing);
  $("hold").disabled = !line?.ready || $("hands-free").checked;
}

function notice(text, offer, act) {
  $("notice").hidden = !text;
  $("notice").firstElementChild.textContent = text ?? "";
  $("notice-do").hidden = !offer;
  $("notice-do").textContent = offer ?? "";
  $("notice-do").onclick = act ?? null;
}

function grow() {
  const text = $("text");
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
}

const given = takeToken();
line.token = kept(sessionStorage, "samvad.token");
if (given) offer(given);
else line.open();

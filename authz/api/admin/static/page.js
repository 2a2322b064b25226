"use strict";
// Live decisions, and a button that copies. Text is only ever set as text: what a client wrote stays text.

(() => {
  const copy = document.getElementById("copy");
  if (copy) {
    copy.addEventListener("click", async () => {
      const field = document.getElementById(copy.dataset.from);
      field.select();
      try {
        await navigator.clipboard.writeText(field.value);
        copy.textContent = "Copied";
      } catch {
        copy.textContent = "Press Ctrl+C";
      }
    });
  }

  const body = document.getElementById("live");
  if (!body) return;
  const connection = document.getElementById("connection");
  const pause = document.getElementById("pause");
  const lost = document.getElementById("lost");
  const wanted = document.getElementById("filter");
  const most = Number(body.dataset.most);
  let source = null;
  let missed = 0;

  const told = (state, words) => {
    connection.dataset.state = state;
    connection.textContent = words;
  };

  const cell = (row, text, name) => {
    const made = row.insertCell();
    made.textContent = text || "–";
    if (name) made.className = name;
    if (name === "clip") made.title = text;
    return made;
  };

  const shown = (line) => {
    const row = document.createElement("tr");
    row.dataset.id = line.decision_id;
    const time = cell(row, "", "time");
    const link = document.createElement("a");
    link.href = "/decisions/" + encodeURIComponent(line.decision_id);
    link.textContent = line.time.slice(11, 19);
    time.replaceChildren(link);
    const answer = cell(row, "");
    const badge = document.createElement("span");
    badge.className = "badge " + (line.effect === "allow" ? "allow" : "deny");
    badge.textContent = line.effect;
    answer.replaceChildren(badge);
    if (line.reason) {
      const reason = document.createElement("code");
      reason.className = "reason";
      reason.textContent = line.reason;
      answer.append(" ", reason);
    }
    cell(row, line.principal, "clip");
    cell(row, line.team);
    cell(row, line.action);
    cell(row, line.model, "clip");
    const cost = cell(row, line.cost_usd, "number");
    cost.textContent = line.cost_usd;
    cost.dataset.cost = "";
    cell(row, line.message, "words").textContent = line.message;
    return row;
  };

  const find = (id) => [...body.rows].find((row) => row.dataset.id === id);

  const open = () => {
    source = new EventSource("/api/decisions/live");
    source.addEventListener("open", () => told("live", "live"));
    source.addEventListener("error", () => told("waiting", "connecting again"));
    source.addEventListener("ended", () => {
      source.close();
      told("ended", "signed out");
    });
    source.addEventListener("lost", (event) => {
      missed += JSON.parse(event.data).records;
      lost.textContent = missed + " came faster than this page takes them, and are not shown.";
      lost.hidden = false;
    });
    source.addEventListener("settlement", (event) => {
      const line = JSON.parse(event.data);
      const row = find(line.decision_id);
      if (row) row.querySelector("[data-cost]").textContent = line.cost_usd;
    });
    source.addEventListener("decision", (event) => {
      const line = JSON.parse(event.data);
      if (wanted && wanted.dataset.effect && wanted.dataset.effect !== line.effect) return;
      if (wanted && wanted.dataset.team && wanted.dataset.team !== line.team) return;
      if (find(line.decision_id)) return;
      const nothing = document.getElementById("nothing");
      if (nothing) nothing.remove();
      const row = shown(line);
      row.classList.add("fresh");
      body.prepend(row);
      while (body.rows.length > most) body.deleteRow(-1);
    });
  };

  pause.addEventListener("click", () => {
    const paused = pause.getAttribute("aria-pressed") !== "true";
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Go on" : "Pause";
    if (paused) {
      source.close();
      told("paused", "paused");
    } else {
      open();
    }
  });

  open();
})();

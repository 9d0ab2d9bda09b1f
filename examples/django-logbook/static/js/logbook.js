// Shows the number of words below a text while it is written. The worker's count is the one that is
// stored; this one splits at white space as it does.
for (const text of document.querySelectorAll("textarea[data-count-words]")) {
  const words = document.createElement("output");
  words.className = "words";
  text.after(words);

  const count = () => {
    const number = text.value.split(/\s+/).filter(Boolean).length;
    words.textContent = number === 1 ? "1 word" : `${number} words`;
  };
  text.addEventListener("input", count);
  count();
}

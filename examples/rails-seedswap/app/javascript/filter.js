// Shows the items whose text has all the words of the input.
export function filter(input, items) {
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/)
    for (const item of items) {
      const text = item.textContent.toLowerCase()
      item.hidden = !words.every((word) => text.includes(word))
    }
  })
}

import pin from "./pin.svg";

export function render(board, notices) {
  for (const notice of notices) {
    const card = document.createElement("p");
    card.style.backgroundImage = `url(${pin})`;
    card.textContent = notice;
    board.append(card);
  }
}

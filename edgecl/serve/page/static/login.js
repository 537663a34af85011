/** Sign in with a password; the token of the printed address needs no script. */

const form = /** @type {HTMLFormElement} */ (document.getElementById("login"));
const refused = /** @type {HTMLElement} */ (document.getElementById("refused"));

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = /** @type {HTMLInputElement} */ (form.elements.namedItem("password"));
  try {
    const response = await fetch("/login", { method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ password: field.value }) });
    if (response.ok) return location.replace("/");
    refused.textContent = (await response.json()).error;
  } catch {
    refused.textContent = "The server did not answer.";
  }
  field.select();
});

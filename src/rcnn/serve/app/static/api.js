// Requests to the server behind this page. Addresses are relative, so each carries the token of the page.

export class ServerError extends Error {}

/** The JSON that the server answers; its errors are thrown in the server's own words. */
export async function ask(address, options = {}) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (cause) {
    if (cause.name === "AbortError") throw cause;
    throw new ServerError("The program behind this page does not answer. Start rcnn app again and open its address; what was saved is kept.");
  }
  const text = await response.text();
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    content = { error: text || `${response.status} ${response.statusText}` };
  }
  if (!response.ok) throw new ServerError(content.error || response.statusText);
  return content;
}

/** The same for something that is sent. */
export function send(address, content = {}) {
  return ask(address, { method: "POST", body: JSON.stringify(content), headers: { "content-type": "application/json" } });
}

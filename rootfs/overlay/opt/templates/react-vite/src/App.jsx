import { useState } from "react";

export default function App() {
  const [count, setCount] = useState(0);
  return (
    <main>
      <h1>Hello from React</h1>
      <p>
        Change <code>src/App.jsx</code>: the page follows, and keeps its state.
      </p>
      <button onClick={() => setCount((n) => n + 1)}>clicked {count} times</button>
    </main>
  );
}

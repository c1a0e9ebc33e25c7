import Counter from "./counter.js";

export default function Page() {
  return (
    <main>
      <h1>Hello from Next.js</h1>
      <p>
        Change <code>app/page.js</code>: the page follows, and keeps its state.
      </p>
      <Counter />
    </main>
  );
}

import { realpathSync } from "node:fs";
import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

export default defineConfig({
  plugins: [react()],
  server: {
    host: "127.0.0.1",
    port: 3000,
    strictPort: true,
    // Requests come through the preview, which passes on only those for its own name, whatever that is.
    allowedHosts: true,
    fs: {
      // Packages that are links to the shared tree are read there.
      allow: [".", realpathSync("node_modules/vite") + "/.."],
    },
  },
});

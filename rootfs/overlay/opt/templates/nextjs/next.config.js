/** @type {import("next").NextConfig} */
export default {
  // Requests come through the preview, which passes on only those for its own name, whatever that is.
  allowedDevOrigins: ["**.*"],
  // Packages that are links to the shared tree lie outside this directory.
  turbopack: { root: "/" },
  devIndicators: false,
};

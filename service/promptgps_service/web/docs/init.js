// A file of its own, because the page's policy allows no script inside the page.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  persistAuthorization: false, // a key is not left behind in the browser
  validatorUrl: null, // the document is shown to nobody else
});

// Swagger UI for this service. A file of its own, because the policy of the pages allows no script in HTML.
"use strict";
SwaggerUIBundle({ url: "openapi.json", dom_id: "#swagger", deepLinking: true, validatorUrl: null });
